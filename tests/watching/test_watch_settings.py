"""What `fastlog.watch` can be told: steps, names, budget; what it refuses, costs and leaves behind."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_net import Net, gradients, loss_of, train
from torch import nn
from watch_oracle import read, steps

import fastlog.watching.recorder
from fastlog.common.notices import FastlogWarning
from fastlog.health.names import layer_of
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


def test_a_resumed_optimizer_says_where_training_was_left(tmp_path: Path) -> None:
    def resume(count: int, state: Any) -> Any:
        model = Net()
        optimizer = torch.optim.Adam(model.parameters())
        with SummaryWriter(str(tmp_path)) as to, watch(model, to, optimizer, every=4, log="gradients"):
            if state is not None:
                optimizer.load_state_dict(state)
            train(model, optimizer, count)
        return optimizer.state_dict()

    state = resume(6, None)
    resume(7, state)
    assert steps(tmp_path) == [0, 4, 8, 12]


def test_a_given_step_wins(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 100)  # its state would say 100
    watcher = watch(model, writer, optimizer, every=5, log=("gradients", "activations"))
    for number in (3, 4, 5, 6, 12, 13, 0, 1):  # skips some, and starts anew
        watcher.step(number)
        train(model, optimizer, 1)
    writer.close()
    assert steps(tmp_path) == steps(tmp_path, "activation_norm/global") == [5, 12, 0]


def test_log_next(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=100, log=("gradients", "activations"))
    train(model, optimizer, 3)
    watcher.log_next()
    train(model, optimizer, 100)
    writer.close()
    assert steps(tmp_path) == steps(tmp_path, "activation_norm/global") == [0, 3, 100]


def test_names_and_top_k(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(
        model,
        writer,
        optimizer,
        log="gradients",
        include=[r"layers\.", "head"],
        exclude=r"bias$",
        top_k=2,
        group=None,
    )
    train(model, optimizer, 1)
    writer.close()
    chosen = {n: float(g.norm()) for n, g in gradients(model).items() if "embed" not in n and "bias" not in n}
    largest = sorted(chosen, key=chosen.__getitem__)[-2:]
    events = read(tmp_path)
    assert set(events.Tags()["histograms"]) == {f"gradients/{name}" for name in largest}
    assert {tag for tag in events.Tags()["scalars"] if "norm/" in tag} == {
        "grad_norm/global",
        *(f"grad_norm/{name}" for name in largest),
    }
    total = sum(norm**2 for norm in chosen.values()) ** 0.5
    assert events.Scalars("grad_norm/global")[0].value == pytest.approx(total, rel=1e-6)


def test_top_k_0_leaves_layers_and_model(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log=("weights", "gradients", "updates"), top_k=0)
    train(model, optimizer, 1)
    writer.close()
    events = read(tmp_path)
    assert not events.Tags()["histograms"]
    norms = {tag.partition("/")[2] for tag in events.Tags()["scalars"] if tag.startswith("grad_norm/")}
    assert norms == {"embed", "layers.0", "layers.1", "head", "global"}
    total = sum(float(grad.norm()) ** 2 for grad in gradients(model).values()) ** 0.5
    assert events.Scalars("grad_norm/global")[0].value == pytest.approx(total, rel=1e-6)


def test_own_groups_and_modules(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(
        model,
        writer,
        optimizer,
        log=("gradients", "activations"),
        modules=r"^layers\.\d$",
        group=lambda name: "norms" if "norm" in name else "others",
        scalars="norm",
        tensor_scalars=(),
        histograms=False,
    )
    train(model, optimizer, 1)
    writer.close()
    tags = read(tmp_path).Tags()
    assert tags["histograms"] == []
    assert set(tags["scalars"]) == {
        *(f"grad_norm/{name}" for name in ("norms", "others", "global")),
        *(f"activation_norm/{name}" for name in ("others", "global")),
    }


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("bert.encoder.layer.3.attention.self.query.weight", "bert.encoder.layer.3"),
        ("model.layers.11.mlp.experts.7.w1.weight", "model.layers.11"),
        ("embeddings.word.weight", "embeddings.word"),
        ("scale", "scale"),
        ("scales.0", "scales"),
    ],
)
def test_layers_by_name(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_nothing_stays_behind(writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())

    def hooks() -> int:
        of_step = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        of_modules = [(m._forward_hooks, m._backward_hooks) for m in model.modules()]
        return sum(len(hooks) for group in (of_step, *of_modules) for hooks in group) + sum(
            "_compiled_call_impl" in vars(module) for module in model.modules()
        )

    watcher = watch(model, writer, optimizer, every=3, log="all")
    assert hooks() == 2 + 6, "the next step is logged"
    train(model, optimizer, 1)
    assert hooks() == 2, "modules are looked at on logged steps only"
    train(model, optimizer, 2)
    assert hooks() == 2 + 6
    loss = loss_of(model)
    watcher.remove()
    watcher.remove()
    assert hooks() == 0
    loss.backward()
    optimizer.step()
    writer.flush()
    assert writer.stats()["accepted"] == 1


def test_copies_of_a_watched_model_are_not_watched(writer: SummaryWriter) -> None:
    """Exponential moving averages and checkpoints are made between steps, when forward hooks may be there."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log=("activations", "activation_gradients"))
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for other in copies:
        loss_of(other).backward()
    train(model, optimizer, 1)
    writer.close()
    events = read(writer.logdir)
    for kind in ("activations", "activation_gradients"):
        assert [e.histogram_value.num for e in events.Histograms(f"{kind}/head")] == [4 * 5 * 3]


def test_an_unfinished_round_is_logged_at_the_end(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.head, model.layers)]
    with watch(model, writer, optimizers, every=1):
        loss_of(model).backward()
        optimizers[0].step()
    writer.close()
    assert steps(tmp_path, "grad_norm/head.bias") == [0]


def test_an_optimizer_whose_step_calls_another_with_hooks(tmp_path: Path, writer: SummaryWriter) -> None:
    class Clamped(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for param in group["params"]:
                        param.clamp_(-0.01, 0.01)
            return loss

    model = Net()
    optimizer = Clamped(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=2)
    train(model, optimizer, 4)
    writer.close()
    events = read(tmp_path)
    assert steps(tmp_path) == [0, 2]
    assert [e.histogram_value.num for e in events.Histograms("gradients/head.bias")] == [3, 3]
    largest = max(event.value for event in events.Scalars("weight_max/global"))
    assert largest == pytest.approx(0.01), "after all of the step"


def test_a_step_that_raises_leaves_no_trace(tmp_path: Path, writer: SummaryWriter) -> None:
    class Fragile(torch.optim.SGD):
        broken = True

        def step(self, closure: Any = None) -> Any:
            if self.broken:
                raise RuntimeError("out of memory")
            return super().step(closure)

    model = Net()
    optimizer = Fragile(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(model, optimizer, 1)
    optimizer.broken = False
    train(model, optimizer, 2)
    writer.close()
    assert steps(tmp_path) == [0, 1]
    assert [e.histogram_value.num for e in read(tmp_path).Histograms("gradients/head.bias")] == [3, 3]


@pytest.mark.filterwarnings("ignore:fastlog.* values were not logged")  # the total, where the writer closes
def test_a_tensor_that_cannot_be_read_is_named_once(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    model.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    model.empty = nn.Parameter(torch.ones(0))
    optimizer = torch.optim.SGD([p for p in model.parameters() if not p.is_complex()], lr=0.1)
    with pytest.warns(FastlogWarning, match="^fastlog.watch: empty .* no elements") as caught:
        watch(model, writer, optimizer, every=1, log="weights")
    assert len(caught) == 1
    with pytest.warns(FastlogWarning, match=r"weights/phase.*complex") as caught:
        train(model, optimizer, 3)
    assert len(caught) == 1
    writer.close()
    assert steps(tmp_path, "weight_norm/head.bias") == [0, 1, 2]
    assert writer.stats()["bad_values"] == 3


@pytest.mark.filterwarnings("ignore:fastlog.* values were not logged")  # the total, where the writer closes
def test_an_error_inside_does_not_stop_training(
    tmp_path: Path, writer: SummaryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise MemoryError("no room")

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="all")
    monkeypatch.setattr(fastlog.watching.recorder, "pack_many", fail)
    with pytest.warns(FastlogWarning, match="no room") as caught:
        train(model, optimizer, 3)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (TypeError, "model must be", {"model": "bert"}),
        (TypeError, "writer must be", {"writer": "runs"}),
        (TypeError, "optimizer must be", {"optimizer": ["sgd"]}),
        (ValueError, "none of weights", {"log": ["weights", "biases"]}),
        (ValueError, "scalars: .* none of norm", {"scalars": "l2"}),
        (ValueError, "tensor_scalars", {"tensor_scalars": "l2"}),
        (ValueError, "every=0", {"every": 0}),
        (ValueError, r"budget=1.5", {"budget": 1.5}),
        (ValueError, r"exclude: '\(' is no regular", {"exclude": "("}),
        (ValueError, "needs the optimizer", {"optimizer": None, "log": "all"}),
    ],
)
def test_wrong_use_raises_at_once(
    writer: SummaryWriter, error: type[Exception], match: str, change: dict[str, Any]
) -> None:
    model = Net()
    arguments = {"model": model, "writer": writer, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    with pytest.raises(error, match=match):
        watch(**{**arguments, **change})
    assert not any(module._forward_hooks for module in model.modules())
