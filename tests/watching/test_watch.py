"""`fastlog.watch` in real trainings: each number that it logs is held against float64 beside the loop."""

from __future__ import annotations

import copy as copying
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_net import BLOCK, LAYERS, Block, Net, gradients, loss_of, weights
from torch import nn
from watch_oracle import Expected, copy, expect_step, read, texts

from fastlog.common.notices import FastlogWarning
from fastlog.watching import LOGGABLE, STATS, watch
from fastlog.writer import SummaryWriter


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_before_and_weights_after_the_step(
    tmp_path: Path, writer: SummaryWriter, set_to_none: bool
) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=2, tensor_scalars=STATS)
    expected = Expected()
    for step in range(5):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss_of(model).backward()
        grads = gradients(model)
        optimizer.step()
        if step % 2 == 0:
            expected.add(step, "gradients", "grad", grads, LAYERS, STATS)
            expected.add(step, "weights", "weight", weights(model), LAYERS, STATS)
    optimizer.zero_grad(set_to_none=set_to_none)
    watcher.remove()
    writer.close()
    expected.assert_logged(tmp_path)


def test_accumulation_and_clipping(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    watch(model, writer, optimizer, every=1)
    expected = Expected()
    for step in range(3):
        for _ in range(4):
            loss_of(model).backward()
        before = nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
        assert before > 1e-2
        grads = gradients(model)
        optimizer.step()
        expect_step(expected, step, grads, weights(model))
        optimizer.zero_grad()
    writer.close()
    expected.assert_logged(tmp_path)
    norms = [event.value for event in read(tmp_path).Scalars("grad_norm/global")]
    assert norms == pytest.approx([1e-2] * 3, rel=1e-4)


def test_gradients_before_clipping_on_request(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=2, log="gradients")
    expected = Expected()
    norms = []
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model).backward()
        watcher.gradients()
        if step % 2 == 0:
            expected.add(step, "gradients", "grad", gradients(model), LAYERS)
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1e-2)))
        optimizer.step()
    writer.close()
    expected.assert_logged(tmp_path)
    logged = [event.value for event in read(tmp_path).Scalars("grad_norm/global")]
    assert logged == pytest.approx(norms[::2], rel=1e-6)


def test_updates_ratios_and_optimizer_state(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, amsgrad=True)
    watch(model, writer, optimizer, every=2, log=("updates", "optimizer_state"))
    expected = Expected()
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        before = weights(model)
        optimizer.step()
        if step % 2 == 0:
            after = weights(model)
            # the difference as float32 has it: exact to one rounding
            updates = {name: copy(after[name] - before[name]) for name in after}
            expected.add(step, "updates", "update", updates, LAYERS)
            expected.add_ratios(step, after, updates, LAYERS)
            for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                state = {name: optimizer.state[param][key] for name, param in model.named_parameters()}
                expected.add(step, key, key, state, LAYERS)
    writer.close()
    expected.assert_logged(tmp_path)


def test_updates_of_a_rotating_part_where_memory_is_short(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sizes = [4 * param.numel() for param in model.parameters()]
    watch(model, writer, optimizer, every=1, log="updates", snapshot_bytes=sum(sizes[:5]))
    seen: list[dict[str, float]] = []
    for _ in range(4):
        optimizer.zero_grad()
        loss_of(model).backward()
        before = weights(model)
        optimizer.step()
        after = weights(model)
        seen.append({name: float((after[name] - before[name]).double().norm()) for name in after})
    writer.close()
    events = read(tmp_path)
    names = [name for name, _ in model.named_parameters()]
    logged = {
        (event.step, name): event.value
        for name in names
        if f"update_norm/{name}" in events.Tags()["scalars"]
        for event in events.Scalars(f"update_norm/{name}")
    }
    for (step, name), value in logged.items():
        assert value == pytest.approx(seen[step][name], rel=1e-6)
    assert [name for step, name in logged if step == 0] == names[:5]
    assert {name for _, name in logged} == set(names), "all have had their turn"
    assert "update_norm/global" not in events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("update_norm/layers.0")] == [0, 2], "only as a whole"


def test_activations_and_their_gradients(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=2, log=("activations", "activation_gradients"))
    watched = {"embed", *(f"layers.{i}.{part}" for i in (0, 1) for part in ("query", "norm")), "head"}
    layers = {f"layers.{i}": [f"layers.{i}.query", f"layers.{i}.norm"] for i in (0, 1)}
    outputs: dict[str, list[torch.Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            if torch.is_grad_enabled():
                output.retain_grad()
                outputs.setdefault(name, []).append(output)

        return hook

    for name, module in model.named_modules():
        if name in watched:
            module.register_forward_hook(keep(name))
    expected = Expected()
    for step in range(4):
        outputs.clear()
        for _ in range(2):  # two micro-batches add up
            loss_of(model).backward()
        if step % 2 == 0:
            values = {name: np.concatenate([copy(t) for t in seen]) for name, seen in outputs.items()}
            grads = {name: np.concatenate([copy(t.grad) for t in seen]) for name, seen in outputs.items()}
            expected.add(step, "activations", "activation", values, layers)
            expected.add(step, "activation_gradients", "activation_grad", grads, layers)
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            loss_of(model)  # evaluation does not count
        model.train()
    writer.close()
    expected.assert_logged(tmp_path)


def test_frozen_and_tied_weights(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    model.layers[1] = model.layers[0]
    model.head = nn.Linear(6, 11, bias=False)
    model.head.weight = model.embed.weight
    model.layers[0].norm.requires_grad_(False)
    trainable = ["embed.weight", "layers.0.query.weight", "layers.0.query.bias"]
    layers = {"embed": trainable[:1], "layers.0": trainable[1:]}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = Expected()
    with watch(model, writer, optimizer, every=1):
        for step in range(2):
            optimizer.zero_grad()
            loss_of(model).backward()
            grads = gradients(model)
            assert set(grads) == set(trainable)
            optimizer.step()
            expected.add(step, "gradients", "grad", grads, layers)
            now = {name: w for name, w in weights(model).items() if name in trainable}
            expected.add(step, "weights", "weight", now, layers)
    with watch(model, writer, optimizer, every=1, log="weights", frozen=True, step=lambda: 7):
        loss_of(model).backward()
        optimizer.step()
    expected.add(
        7, "weights", "weight", weights(model), {"embed": ["embed.weight"], "layers.0": LAYERS["layers.0"]}
    )
    writer.close()
    expected.assert_logged(tmp_path)


def test_parameters_added_swapped_and_unfrozen_later(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    model.embed.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    watch(model, writer, optimizer, every=1, health=False)
    expected = Expected()
    for step in range(3):
        if step == 1:
            model.head.bias = nn.Parameter(torch.ones(3))  # not known to the optimizer
            optimizer.add_param_group({"params": model.embed.requires_grad_(True).parameters()})
        if step == 2:
            model.layers.append(Block())
        optimizer.zero_grad()
        model.head.bias.grad = None
        loss_of(model).backward()
        layers = {**LAYERS, "layers.2": [f"layers.2.{name}" for name in BLOCK]}
        expected.add(step, "gradients", "grad", gradients(model), layers)
        optimizer.step()
        now = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        expected.add(step, "weights", "weight", now, layers)
    writer.close()
    expected.assert_logged(tmp_path)


def test_sparse_gradients(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net(sparse=True)
    optimizer = torch.optim.SparseAdam([model.embed.weight], lr=0.1)
    watch(model, writer, optimizer, every=1, log=("gradients", "updates"), include="embed")
    expected = Expected()
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        loss_of(model).backward()  # accumulates without coalescing
        grad = model.embed.weight.grad
        assert grad is not None and grad.is_sparse
        expected.add(step, "gradients", "grad", {"embed.weight": grad.clone()}, {"embed": ["embed.weight"]})
        before = model.embed.weight.detach().clone()
        optimizer.step()
        update = {"embed.weight": copy(model.embed.weight.detach() - before)}
        expected.add(step, "updates", "update", update, {"embed": ["embed.weight"]})
        expected.add_ratios(step, weights(model), update, {"embed": ["embed.weight"]})
    writer.close()
    expected.assert_logged(tmp_path)


def test_several_optimizers_make_one_step(tmp_path: Path, writer: SummaryWriter) -> None:
    """The second backward spoils the gradients of the first optimizer after it has stepped, as in a GAN."""
    model = Net()
    of_head = torch.optim.Adam(model.head.parameters(), lr=0.1)
    of_rest = torch.optim.SGD([p for n, p in model.named_parameters() if not n.startswith("head")], lr=0.1)
    watch(model, writer, [of_head, of_rest], every=2)
    expected = Expected()
    for step in range(4):
        model.zero_grad()
        loss_of(model).backward()
        head = {name: grad for name, grad in gradients(model).items() if name.startswith("head")}
        of_head.step()
        loss_of(model).backward()
        rest = {name: grad for name, grad in gradients(model).items() if not name.startswith("head")}
        of_rest.step()
        if step % 2 == 0:
            expect_step(expected, step, head | rest, weights(model))
    writer.close()
    expected.assert_logged(tmp_path)


def test_one_optimizer_steps_more_often(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    often = torch.optim.SGD(model.head.parameters(), lr=0.1)
    rarely = torch.optim.SGD(model.embed.parameters(), lr=0.1)
    with watch(model, writer, [often, rarely], every=1, include=("head", "embed"), histograms=False):
        for step in range(5):
            model.zero_grad()
            loss_of(model).backward()
            often.step()
            if step % 3 == 2:
                rarely.step()
    writer.close()
    events = read(tmp_path)
    assert [event.step for event in events.Scalars("grad_norm/head.weight")] == [0, 1, 2, 3, 4]
    assert [event.step for event in events.Scalars("grad_norm/embed.weight")] == [2]


def test_closures(tmp_path: Path, writer: SummaryWriter) -> None:
    """Gradients that are made inside of the step; the first of several evaluations counts."""
    model = Net()
    tokens = torch.randint(11, (4, 5))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    watch(model, writer, optimizer, every=2)
    expected = Expected()
    seen: list[dict[str, torch.Tensor]] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(tokens).square().mean()
        loss.backward()
        seen.append(gradients(model))
        return loss

    for step in range(3):
        seen.clear()
        optimizer.step(closure)
        assert len(seen) > 1
        if step % 2 == 0:
            expect_step(expected, step, seen[0], weights(model))
    writer.close()
    expected.assert_logged(tmp_path)


def test_without_an_optimizer(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    watcher = watch(model, writer, every=10)
    expected = Expected()
    for step in range(95, 112):
        model.zero_grad()
        loss_of(model).backward()
        if step % 10 == 0:
            expect_step(expected, step, gradients(model), weights(model))
        watcher.step(step)
        with torch.no_grad():
            for param in model.parameters():
                param -= 0.1 * param.grad
    writer.close()
    expected.assert_logged(tmp_path)
    assert [event.step for event in read(tmp_path).Scalars("grad_norm/global")] == [100, 110]


def test_nan_is_located_in_one_line(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch(model, writer, optimizer, every=1, log="gradients", top_k=3, health=False)
    with pytest.warns(FastlogWarning, match=r"NaN or Inf in 4 of 11 tensors, from layers\.0\.q") as said:
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            if step >= 1:
                for name, param in model.layers[0].named_parameters():
                    param.grad[..., 0] = float("nan") if "query" in name else float("-inf")
            optimizer.step()
        writer.close()
    assert len(said) == 1, "once for a kind"
    assert str(said[0].message).startswith("fastlog.watch: step 1: ")
    assert [step for step, _ in texts(tmp_path)] == [1, 2]
    assert texts(tmp_path)[0][1] == (
        "gradients: NaN or Inf in 4 of 11 tensors, from layers.0.query.weight to layers.0.norm.bias; "
        "last clean before: embed.weight; first clean after: layers.1.query.weight"
    )
    events = read(tmp_path)
    assert [event.value for event in events.Scalars("grad_nan/global")][:2] == [0.0, 6.0 + 1.0]
    assert [event.value for event in events.Scalars("grad_inf/layers.0")][:2] == [0.0, 2.0]
    bad = [name for name in events.Tags()["histograms"] if 1 in {e.step for e in events.Histograms(name)}]
    assert len(bad) == 3 and all(name.startswith("gradients/layers.0") for name in bad)


def test_all_kinds_have_every_statistic(tmp_path: Path, writer: SummaryWriter) -> None:
    model = copying.deepcopy(Net())
    optimizer = torch.optim.Adam(model.parameters())
    watch(model, writer, optimizer, log="all")
    loss_of(model).backward()
    optimizer.step()
    writer.close()
    tags = read(tmp_path).Tags()["scalars"]
    titles = {"weight", "grad", "update", "exp_avg", "exp_avg_sq", "activation", "activation_grad"}
    assert {tag for tag in tags if tag.endswith("/global")} == {
        f"{title}_{stat}/global" for title in titles for stat in STATS
    } | {"update_ratio/global"}
    assert len(LOGGABLE) == 6
