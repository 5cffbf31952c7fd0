"""Fine-tune a pretrained BERT on movie reviews with Hugging Face's Trainer, and watch it with one callback.

python examples/finetune_trainer.py                     # every weight and gradient, within 1 % of the time
python examples/finetune_trainer.py --lora              # adapters only; needs peft
python examples/finetune_trainer.py --log all --budget 0.1
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from finetune_bert import MAX_TOKENS, PACKAGED_MODEL, load_reviews, model_path
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from fastlog.integrations.transformers import FastLogCallback


def rows_of(reviews: list[tuple[str, int]], tokenizer: Any) -> list[dict[str, Any]]:
    """What the Trainer takes as a data set: token ids and a label for each review."""
    tokens = tokenizer([text for text, _ in reviews], truncation=True, max_length=MAX_TOKENS)
    return [
        {**{key: tokens[key][i] for key in tokens}, "labels": label} for i, (_, label) in enumerate(reviews)
    ]


def accuracy(prediction: Any) -> dict[str, float]:
    """Share of right answers."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def with_lora(model: Any) -> Any:
    """The model frozen but for adapters beside its attention and the new classifier."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default=PACKAGED_MODEL, help="packaged model, hub name or path (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=256, help="reviews for the accuracy (%(default)s)")
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--lora", action="store_true", help="train adapters instead of all weights")
    parser.add_argument(
        "--log", nargs="+", default=["weights", "gradients"], help="see fastlog.watch (%(default)s)"
    )
    parser.add_argument(
        "--logging-steps", type=int, default=5, metavar="N", help="log every Nth step (%(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=0.01, help="share of the time for watching (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs", time.strftime("trainer-%Y%m%d-%H%M%S")))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    path = model_path(args.model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    wanted = args.held_out + args.steps * args.batch_size
    reviews = rows_of(load_reviews(args.seed)[:wanted], tokenizer)

    trainer = Trainer(
        model=with_lora(model) if args.lora else model,
        args=TrainingArguments(
            output_dir=str(args.output),
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=args.lr,
            logging_steps=args.logging_steps,
            save_strategy="no",
            report_to="none",  # the callback below takes the place of TensorBoard's
            seed=args.seed,
        ),
        train_dataset=reviews[args.held_out :],
        eval_dataset=reviews[: args.held_out],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=[FastLogCallback(log=args.log, budget=args.budget, logdir=args.output)],
    )
    before = trainer.evaluate()["eval_accuracy"]
    trainer.train()
    after = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy on {args.held_out} held-out reviews: {before:.3f} before, {after:.3f} after")
    print(f"see it: tensorboard --logdir {args.output}")


if __name__ == "__main__":
    main()
