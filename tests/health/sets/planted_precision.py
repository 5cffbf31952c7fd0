"""Planted faults of precision and of rates."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.models import Cnn, Digits, Gpt, Points, Recurrent, Sequences, mlp

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


@case("lost-updates", tensors=("0.weight",), first=0, quick=True)
def bfloat16_and_a_small_rate(bench: Bench) -> None:
    model, task = mlp().bfloat16(), Points()
    bench.fit(model, AdamW(model.parameters(), 2e-6), task.loss(lambda x: model(x.bfloat16())), 40)


@case("lost-updates", tensors=("blocks.1.up.weight",), first=0)
def gpt_in_bfloat16(bench: Bench) -> None:
    model, task = Gpt().bfloat16(), Sequences()
    bench.fit(model, AdamW(model.parameters(), 1e-6), task.loss(model), 40)


@case("gradient-underflow", tensors=("0.weight",), also=("adam-eps-dominates",))
def float16_without_a_scaler(bench: Bench) -> None:
    model, task = mlp((16, 64, 64, 64, 4)), Points()
    optimizer = SGD(model.parameters(), 0.1)

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(x)
        return F.cross_entropy(logits.float(), y) * 1e-2

    bench.fit(model, optimizer, loss_of, 40)


@case(
    "gradient-underflow", tensors=("2.weight",), also=("lost-updates", "adam-eps-dominates", "not-updating")
)
def weights_in_float16(bench: Bench) -> None:
    model, task = mlp().half(), Points()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x.half()).float(), y) * 3e-3

    bench.fit(model, SGD(model.parameters(), 0.5), loss_of, 40)


@case(
    "near-overflow", tensors=("2",), also=("lost-updates", "not-updating", "lr-too-low", "gradient-underflow")
)
def activations_that_outgrow_float16(bench: Bench) -> None:
    model, task = mlp((16, 32, 32, 4)).half(), Points()
    with torch.no_grad():
        model[2].weight.mul_(8000)
        model[4].weight.mul_(1 / 8000)

    def after(step: int) -> None:
        with torch.no_grad():
            model[2].weight.mul_(1.04)
            model[4].weight.mul_(0.96)

    bench.fit(
        model,
        SGD(model.parameters(), 1e-12),
        task.loss(lambda x: model(x.half())),
        45,
        after=after,
        log=("weights", "gradients", "activations"),
    )


@case("adam-eps-dominates", quick=True)
def epsilon_that_is_high(bench: Bench) -> None:
    model, task = mlp(), Points()
    bench.fit(model, Adam(model.parameters(), 1e-3, eps=1.0), task.loss(model), 40)


@case("adam-eps-dominates")
def loss_in_a_small_unit(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    plain = task.loss(model)
    bench.fit(model, AdamW(model.parameters(), 1e-3), lambda step: plain(step) * 1e-9, 40)


@case("lr-too-high", also=("dead-units",), quick=True)
def adam_at_one(bench: Bench) -> None:
    model, task = mlp(), Points()
    bench.fit(model, Adam(model.parameters(), 1.0), task.loss(model), 60)


@case("lr-too-high", also=("dead-units", "exploding-gradients", "loss-diverging"))
def gpt_at_a_tenth(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    bench.fit(model, AdamW(model.parameters(), 0.3), task.loss(model), 60)


@case("lr-too-low", also=("not-learning",), quick=True)
def rate_of_a_billionth(bench: Bench) -> None:
    model, task = mlp(), Points()
    bench.fit(model, Adam(model.parameters(), 1e-9), task.loss(model), 60)


@case("lr-too-low")
def sgd_at_a_hundred_millionth(bench: Bench) -> None:
    model, task = Recurrent(), Sequences()
    bench.fit(model, SGD(model.parameters(), 1e-6), task.loss(model), 60)


@case("gradients-accumulate", quick=True)
def zero_grad_forgotten(bench: Bench) -> None:
    model, task = mlp(), Points()
    plain = task.loss(model)
    optimizer = Adam(model.parameters(), 1e-3)
    watcher = bench.watch(model, optimizer)
    for step in range(60):
        loss = plain(step)
        loss.backward()
        optimizer.step()
        bench.loss(step, loss)
    watcher.remove()


@case("gradients-accumulate", also=("exploding-gradients", "loss-diverging", "loss-spike"))
def zero_grad_of_another_optimizer(bench: Bench) -> None:
    model, task = Recurrent(), Sequences()
    plain = task.loss(model)
    optimizer, other = SGD(model.parameters(), 0.01), SGD([nn.Parameter(torch.zeros(2, 2))], 0.01)
    watcher = bench.watch(model, optimizer, every=3)
    for step in range(90):
        other.zero_grad()
        loss = plain(step)
        loss.backward()
        optimizer.step()
        bench.loss(step, loss)
    watcher.remove()


@case("exploding-gradients", severity="error")
def weights_with_a_gain_of_five(bench: Bench) -> None:
    model, task = mlp((16, *[64] * 8, 4)), Points()
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=5 / layer.in_features**0.5)

    def before(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    bench.fit(model, SGD(model.parameters(), 1e-4), task.loss(model), 60, before=before)


@case(
    "exploding-gradients", severity="error", also=("lr-too-high", "loss-diverging", "nonfinite", "loss-spike")
)
def steps_that_blow_up_a_recurrent_net(bench: Bench) -> None:
    model, task = Recurrent(nn.RNN), Sequences(length=40)
    optimizer = SGD(model.parameters(), 0.05)

    def after(step: int) -> None:
        if step >= 60:
            with torch.no_grad():
                model.rnn.weight_hh_l0.mul_(1.08)
                model.head.weight.mul_(1.08)

    bench.fit(model, optimizer, task.loss(model), 110, after=after)


@case("vanishing-gradients", tensors=("0.weight",))
def deep_sigmoids_with_sgd(bench: Bench) -> None:
    model, task = mlp((16, *[32] * 8, 4), nn.Sigmoid), Points()
    bench.fit(model, SGD(model.parameters(), 0.1), task.loss(model), 60)


@case("vanishing-gradients", tensors=("0.weight",), also=("not-learning",))
def deep_sigmoids_with_adam(bench: Bench) -> None:
    model, task = mlp((16, *[32] * 10, 4), nn.Sigmoid), Points()
    bench.fit(model, Adam(model.parameters(), 1e-4), task.loss(model), 80)


@case("weights-collapse", tensors=("2.weight",))
def weight_decay_of_fifty(bench: Bench) -> None:
    model, task = mlp(), Points()
    bench.fit(model, AdamW(model.parameters(), 1e-3, weight_decay=50.0), task.loss(model), 60)


@case("weights-collapse", tensors=("fc1.weight",))
def sgd_that_decays_to_nothing(bench: Bench) -> None:
    model, task = Cnn(norm=False), Digits()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    bench.fit(model, SGD(model.parameters(), 0.01, weight_decay=5.0), loss_of, 60)


@case("always-clipped", quick=True)
def clipped_at_a_thousandth(bench: Bench) -> None:
    model, task = mlp(), Points()

    def before(step: int) -> None:
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        bench.writer.add_scalar("train/grad_norm", float(norm), step)

    bench.fit(model, SGD(model.parameters(), 0.1), task.loss(model), 60, before=before)
