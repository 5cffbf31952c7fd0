"""Fine-tune a Llama with LoRA adapters on movie reviews, and watch the adapters with one callback.

python examples/finetune_llama_lora.py                                  # a tiny Llama with random weights
python examples/finetune_llama_lora.py --model meta-llama/Llama-3.2-1B  # yours

The tiny one trains in under a minute on two cores and needs no download. Its weights are random, so its
embeddings and its head are trained beside the adapters.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from finetune_bert import PACKAGED_MODEL, load_reviews, model_path
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from fastlog.integrations.transformers import FastLogCallback

MAX_TOKENS = 48
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    """Four layers with random weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=MAX_TOKENS, **sizes))


def load(name: str | None) -> tuple[Any, Any]:
    """The model with adapters, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(name or model_path(PACKAGED_MODEL))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if name is None:
        model, trained_whole = tiny_llama(len(tokenizer)), ["embed_tokens", "lm_head"]
    else:
        model, trained_whole = AutoModelForCausalLM.from_pretrained(name, dtype="auto"), None
    adapters = LoraConfig(r=8, target_modules=ATTENTION, modules_to_save=trained_whole, task_type="CAUSAL_LM")
    return get_peft_model(model, adapters), tokenizer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub name or path; without it a tiny Llama with random weights")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=64, help="reviews for the perplexity (%(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--logging-steps", type=int, default=5, metavar="N", help="log every Nth step (%(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs", time.strftime("llama-lora-%Y%m%d-%H%M%S"))
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    model, tokenizer = load(args.model)
    model.print_trainable_parameters()
    texts = [text for text, _ in load_reviews(args.seed)[: args.held_out + args.steps * args.batch_size]]
    rows = [
        {"input_ids": ids} for ids in tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    ]

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.output),
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.lr,
            lr_scheduler_type="cosine",
            logging_steps=args.logging_steps,
            save_strategy="no",
            report_to="none",  # the callback below takes the place of TensorBoard's
            seed=args.seed,
        ),
        train_dataset=rows[args.held_out :],
        eval_dataset=rows[: args.held_out],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[FastLogCallback(log=["weights", "gradients", "updates"], logdir=args.output)],
    )
    before, _, after = trainer.evaluate(), trainer.train(), trainer.evaluate()
    perplexity = [round(math.exp(result["eval_loss"])) for result in (before, after)]
    print(f"perplexity on {args.held_out} held-out reviews: {perplexity[0]} before, {perplexity[1]} after")
    print(f"see it: tensorboard --logdir {args.output}")


if __name__ == "__main__":
    main()
