"""Planted faults of single layers, and of the course of the loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.models import Cnn, Digits, Gpt, Points, Recurrent, Sequences, mlp

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


@case("dead-units", tensors=("0.bias",), quick=True)
def bias_far_below_zero(bench: Bench) -> None:
    model, task = mlp(), Points()
    with torch.no_grad():
        model[0].bias[:48] -= 20
    bench.fit(model, Adam(model.parameters()), task.loss(model), 50)


@case("dead-units", tensors=("fc1.bias",), first=31)
def units_killed_by_one_step(bench: Bench) -> None:
    model, task = Cnn(), Digits()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    def after(step: int) -> None:
        if step == 30:
            with torch.no_grad():
                model.fc1.bias[:24] -= 100

    bench.fit(model, SGD(model.parameters(), 0.02, 0.9), loss_of, 80, after=after)


@case(
    "saturated-activations",
    tensors=("1", "3"),
    also=("exploding-gradients", "vanishing-gradients", "not-learning"),
)
def tanh_with_a_gain_of_twenty(bench: Bench) -> None:
    model, task = mlp((16, 64, 64, 64, 4), nn.Tanh), Points()
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=40 / layer.in_features**0.5)
    bench.fit(
        model,
        SGD(model.parameters(), 1e-4),
        task.loss(model),
        50,
        log=("weights", "gradients", "activations"),
    )


@case("attention-collapse", tensors=("blocks.1.attn.softmax",), also=("weight-outlier",))
def queries_and_keys_that_grow(bench: Bench) -> None:
    model, task = Gpt(), Sequences(length=32)

    def after(step: int) -> None:
        with torch.no_grad():
            model.blocks[1].attn.query.weight.mul_(1.08)
            model.blocks[1].attn.key.weight.mul_(1.08)

    bench.fit(
        model,
        AdamW(model.parameters(), 1e-3),
        task.loss(model),
        70,
        after=after,
        log=("weights", "gradients", "activations"),
    )


@case("weight-outlier", tensors=("blocks.2.down.weight",))
def one_block_that_runs_away(bench: Bench) -> None:
    model, task = Gpt(), Sequences()

    def after(step: int) -> None:
        with torch.no_grad():
            model.blocks[2].down.weight.mul_(1.05)

    bench.fit(model, AdamW(model.parameters(), 1e-3), task.loss(model), 70, after=after)


@case("never-hit", tensors=("wpe.weight",), severity="info")
def positions_never_used(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    bench.fit(
        model,
        AdamW(model.parameters(), 1e-3),
        task.loss(model),
        30,
        log=("weights", "gradients", "optimizer_state"),
    )


@case("loss-diverging", severity="error", quick=True)
def labels_that_rot(bench: Bench) -> None:
    model, task = mlp(), Points()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        rotten = torch.rand(len(y)) < min(1.0, max(0.0, (step - 80) / 50))
        return F.cross_entropy(model(x), torch.where(rotten, torch.randint(4, y.shape), y))

    bench.fit(model, Adam(model.parameters(), 3e-3), loss_of, 180)


@case("lr-too-high", first=71, also=("dead-units", "loss-diverging", "loss-spike", "exploding-gradients"))
def rate_raised_in_the_middle(bench: Bench) -> None:
    model, task = Recurrent(), Sequences()
    optimizer = AdamW(model.parameters(), 3e-3)

    def after(step: int) -> None:
        if step == 70:
            optimizer.param_groups[0]["lr"] = 3.0

    bench.fit(model, optimizer, task.loss(model), 130, after=after)


@case("loss-spike", severity="info", first=60)
def one_batch_of_other_units(bench: Bench) -> None:
    model, task = mlp(), Points()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x * (100.0 if step == 60 else 1.0)), y)

    bench.fit(model, SGD(model.parameters(), 0.05), loss_of, 110)


@case("not-learning", quick=True)
def labels_shuffled_apart(bench: Bench) -> None:
    model = mlp()
    bench.fit(
        model,
        Adam(model.parameters()),
        lambda step: F.cross_entropy(model(torch.randn(64, 16)), torch.randint(4, (64,))),
        150,
    )


@case("not-learning", also=("dead-units",))
def images_all_alike(bench: Bench) -> None:
    model = Cnn(norm=False)
    bench.fit(
        model,
        SGD(model.parameters(), 0.01, 0.9),
        lambda step: F.cross_entropy(model(torch.ones(32, 1, 12, 12) * 0.1), torch.randint(10, (32,))),
        150,
    )


@case("overfitting", severity="info")
def learnt_by_heart(bench: Bench) -> None:
    model, task = mlp((16, 128, 128, 4)), Points(batch=48)
    x, y = task.draw()
    y = torch.where(torch.rand(48) < 0.3, torch.randint(4, (48,)), y)
    xv, yv = torch.randn(400, 16), torch.randint(4, (400,))

    def after(step: int) -> None:
        if step % 10 == 9:
            with torch.no_grad():
                bench.loss(step, F.cross_entropy(model(xv), yv), "loss/val")

    bench.fit(
        model, Adam(model.parameters(), 3e-3), lambda step: F.cross_entropy(model(x), y), 120, after=after
    )
