"""Histories of runs that never were, with known numbers: what the pages show is held against them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastlog.health.findings import Chart, Finding, RunHealth
from fastlog.health.history import (
    GRADIENTS,
    UPDATES,
    WEIGHTS,
    History,
    Inventory,
    Kind,
    Parameter,
)
from fastlog.summaries.packed import HEAD


@dataclass(frozen=True)
class Histograms:
    """As `fastlog.load` gives them."""

    steps: np.ndarray
    limits: list[np.ndarray]
    counts: list[np.ndarray]


CHECKED = (
    *(
        "nonfinite",
        "no-gradient",
        "not-optimised",
        "not-updating",
        "lost-updates",
        "lr-too-high",
        "lr-too-low",
    ),
    *(
        "lr-zero",
        "vanishing-gradients",
        "exploding-gradients",
        "loss-spike",
        "loss-diverging",
        "not-learning",
    ),
    *("gradients-accumulate", "dead-units", "constant-init", "weight-outlier", "weights-collapse", "untied"),
)
NOT_CHECKED = {
    "replicas-differ": "one process alone writes this run",
    "attention-collapse": 'no attention probabilities are logged: `log="activations"` logs them',
    "overfitting": "no validation loss is logged",
}


def bert_names(layers: int = 6) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small BERT's parameters."""
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (30522, 384),
        "bert.embeddings.position_embeddings.weight": (512, 384),
        "bert.embeddings.token_type_embeddings.weight": (2, 384),
        "bert.embeddings.LayerNorm.weight": (384,),
        "bert.embeddings.LayerNorm.bias": (384,),
    }
    blocks = {
        "attention.self.query": (384, 384),
        "attention.self.key": (384, 384),
        "attention.self.value": (384, 384),
        "attention.output.dense": (384, 384),
        "attention.output.LayerNorm": (384,),
        "intermediate.dense": (1536, 384),
        "output.dense": (384, 1536),
        "output.LayerNorm": (384,),
    }
    for layer in range(layers):
        for name, shape in blocks.items():
            shapes[f"bert.encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"bert.encoder.layer.{layer}.{name}.bias"] = shape[:1]
    for name, shape in {"bert.pooler.dense": (384, 384), "classifier": (2, 384)}.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


def heads(rms: np.ndarray, num: np.ndarray, zeros: np.ndarray | float = 0.0) -> np.ndarray:
    """Heads of tensors of ``num`` values with these root mean squares; NaN: one value is NaN."""
    made = np.zeros(rms.shape, HEAD)
    made["num"] = num[:, None]
    made["nan"] = np.isnan(rms)
    made["num_finite"] = made["num"] - made["nan"]
    made["zeros"] = np.where(rms == 0, 1.0, zeros) * made["num"]
    made["sum_squares"] = np.where(np.isnan(rms), 1.0, rms) ** 2 * made["num_finite"]
    made["abs_max"] = 4 * np.nan_to_num(rms)
    made["max"], made["min"] = made["abs_max"], -made["abs_max"]
    return made


def bert(run: str = "bert", logged: int = 100, every: int = 10, layers: int = 6, seed: int = 0) -> History:
    """A healthy fine-tuning."""
    rng = np.random.default_rng(seed)
    shapes = bert_names(layers)
    names = tuple(shapes)
    num = np.array([int(np.prod(shape)) for shape in shapes.values()])
    steps = np.arange(logged, dtype=np.int64) * every
    progress = np.linspace(0, 1, logged)
    lr = 5e-5 * np.minimum(progress / 0.1, (1 - progress) / 0.9).clip(0)
    scale = 10 ** rng.uniform(-4, -3, len(names))[:, None]
    gradients = scale * np.exp(rng.normal(0, 0.25, (len(names), logged))) * (1.3 - progress)
    weights = np.repeat(10 ** rng.uniform(-2, -0.5, len(names))[:, None], logged, axis=1)
    updates = np.maximum(lr, 1e-8) * 0.3 * np.exp(rng.normal(0, 0.1, gradients.shape))
    loss = 0.15 + 0.6 * np.exp(-5 * progress) + rng.normal(0, 0.03, logged)
    there = np.ones((len(names), logged), bool)
    kinds = {
        WEIGHTS: Kind(names, heads(weights, num), there),
        GRADIENTS: Kind(names, heads(gradients, num), there),
        UPDATES: Kind(names, heads(updates, num), there),
    }
    parameters = {name: Parameter(name, shape) for name, shape in shapes.items()}
    return History(
        run,
        steps,
        1.7e9 + steps.astype(float),
        kinds,
        (Inventory(0, parameters),),
        lr[None, :],
        scalars={"loss/train": (steps, loss)},
        loss_tag="loss/train",
    )


def health(history: History, *findings: Finding) -> RunHealth:
    """What the rules could say of it."""
    return RunHealth(
        history.run, int(history.steps[0]), int(history.steps[-1]), findings, CHECKED, dict(NOT_CHECKED)
    )


def frozen(history: History, layer: int, since: int) -> tuple[History, Finding]:
    """A layer whose gradients are zero from an observation on, and the finding that says so."""
    gradients = history.kinds[GRADIENTS]
    part = f"bert.encoder.layer.{layer}."
    rows = [i for i, name in enumerate(gradients.names) if name.startswith(part)]
    made = gradients.heads.copy()
    for field in ("sum_squares", "abs_max", "max", "min", "sum"):
        made[field][rows, since:] = 0
    made["zeros"][rows, since:] = made["num"][rows, since:]
    history.kinds[GRADIENTS] = Kind(gradients.names, made, gradients.present)
    norm = np.sqrt(made["sum_squares"][rows].sum(axis=0))
    sizes = history.sizes()
    tensors = tuple(gradients.names[i] for i in rows)
    return history, Finding(
        "no-gradient",
        "error",
        f"encoder.layer.{layer} gets no gradient",
        tensors,
        sum(sizes[name] for name in tensors) / sum(sizes.values()),
        int(history.steps[since]),
        int(history.steps[-1]),
        {
            "tensors_without_gradient": len(tensors),
            "gradient_norm_before": float(norm[since - 1]),
            "observations": "90 of 90",
        },
        "Something cuts the graph before this layer: `detach()`, `torch.no_grad()` or `.data`.",
        "Look at the forward pass of `bert.encoder.layer.3`; `loss.backward()` reaches what comes after it.",
        "rule no-gradient: all values of the gradient are 0, in 3 of 3 observations; exact, no threshold",
        Chart(
            f"gradient norm of encoder.layer.{layer}",
            tuple(history.steps.tolist()),
            tuple(norm.tolist()),
            None,
            True,
        ),
    )


def poisoned(history: History, at: int) -> tuple[History, Finding]:
    """NaN in all gradients and in the loss, from an observation on."""
    gradients = history.kinds[GRADIENTS]
    made = gradients.heads.copy()
    made["nan"][:, at:] = 1
    made["num_finite"][:, at:] = made["num"][:, at:] - 1
    history.kinds[GRADIENTS] = Kind(gradients.names, made, gradients.present)
    steps, loss = history.scalars["loss/train"]
    loss = loss.copy()
    loss[at:] = np.nan
    history.scalars["loss/train"] = (steps, loss)
    return history, Finding(
        "nonfinite",
        "error",
        "The loss and all gradients are NaN",
        gradients.names,
        1.0,
        int(steps[at]),
        int(steps[-1]),
        {"first_tensor": gradients.names[-2], "loss_before": float(loss[at - 1]), "lr": 4.2e-5},
        "A division by zero or a logarithm of 0 in the loss.",
        "Stop the run and go back to the checkpoint before this step.",
        "rule nonfinite: at least one value; exact, no threshold",
        Chart("loss", tuple(steps.tolist()), tuple(loss.tolist()), None),
    )


def fast(history: History) -> tuple[History, Finding]:
    """A warning with a threshold."""
    steps = tuple(history.steps.tolist())
    values = tuple((0.02 + 0.2 * np.linspace(0, 1, len(steps)) ** 2).tolist())
    return history, Finding(
        "lr-too-high",
        "warning",
        "One step changes the weights by a fifth of their size",
        (),
        0.94,
        int(steps[65]),
        int(steps[-1]),
        {
            "median_of_update_to_weight": 0.214,
            "matrices": 38,
            "worst": [["classifier.weight", 0.41], ["bert.pooler.dense.weight", 0.33]],
        },
        "The learning rate is too high for this model or batch size.",
        "Try a tenth: `optimizer = AdamW(model.parameters(), lr=5e-6)`, or a longer warm-up.",
        "rule lr-too-high: median over matrices of update / weight over 0.1 in 5 of 5 observations",
        Chart("update / weight, median of the matrices", steps, values, 0.1, True),
    )


def histograms(history: History, every: int = 5) -> dict[str, Histograms]:
    """Normal distributions of the sizes that the history says."""
    limits = np.linspace(-4, 4, 81)
    share = np.exp(-((limits - 0.05) ** 2) / 2)
    made = {}
    for name in (WEIGHTS, GRADIENTS):
        kind = history.kinds[name]
        rms = np.sqrt(kind.heads["sum_squares"] / kind.heads["num"])
        for row, tensor in enumerate(kind.names):
            sizes = rms[row, ::every]
            counts = [share if size > 0 else np.eye(81)[40] for size in sizes]
            scaled = [limits * (size or 1e-12) for size in sizes]
            made[f"{name}/{tensor}"] = Histograms(history.steps[::every], scaled, counts)
    return made
