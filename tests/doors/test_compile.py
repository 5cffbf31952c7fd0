"""Writers in compiled training steps, and the custom op in whole graphs."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
from event_files import scalars, values
from oracles import CONTENTS, DTYPES, random_tensor
from torch._dynamo.testing import CompileCounter

import fastlog
from fastlog.summaries.packed import COUNTERS, MOMENTS


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def no_noise(caplog: pytest.LogCaptureFixture) -> bool:
    """Nothing from the compiler, whose loggers are not on the way to the root's."""
    return not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    loggers = [logging.getLogger(name) for name in ("torch", "torch._dynamo", "torch._inductor")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    yield caplog
    for logger in loggers:
        logger.removeHandler(caplog.handler)


CALLS: dict[str, Callable[[Any, torch.Tensor, int], object]] = {
    "add_scalar of a tensor": lambda w, y, i: w.add_scalar("x", y.sum(), i),
    "add_scalar of a number": lambda w, y, i: w.add_scalar("x", 0.5, i),
    "add_scalars": lambda w, y, i: w.add_scalars("x", {"a": y[0, 0], "b": i}, i),
    "add_histogram": lambda w, y, i: w.add_histogram("x", y, i),
    "add_histogram with bins": lambda w, y, i: w.add_histogram("x", y, i, bins=10),
    "add_image": lambda w, y, i: w.add_image("x", y, i, dataformats="HW"),
    "add_text": lambda w, y, i: w.add_text("x", "text", i),
    "add_pr_curve": lambda w, y, i: w.add_pr_curve("x", y.round(), y, i),
    "add_tensor": lambda w, y, i: w.add_tensor("x", y, i),
    "add_embedding": lambda w, y, i: w.add_embedding(y, global_step=i),
    "add_custom_scalars_multilinechart": lambda w, y, i: w.add_custom_scalars_multilinechart(["a"]),
    "add_hparams": lambda w, y, i: w.add_hparams({"a": 1}, {"b": y[0, 0]}, name=str(i)),
    "flush": lambda w, y, i: w.flush(),
    "stats": lambda w, y, i: w.stats(),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_in_a_compiled_step(name: str, tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    call = CALLS[name]
    counter = CompileCounter()
    with fastlog.SummaryWriter(tmp_path / "compiled", compact=False) as writer:

        def step(x: torch.Tensor, i: int) -> torch.Tensor:
            y = (x * 2).sigmoid()
            call(writer, y, i)
            return y + 1

        compiled = torch.compile(step, backend=counter)
        for i in range(4):
            x = torch.full((3, 3), float(i))
            assert torch.equal(compiled(x, i), (x * 2).sigmoid() + 1)
    assert no_noise(heard)
    assert counter.frame_count >= 2  # the parts before and after the call
    # nothing of ours was compiled: multiplication, sigmoid, addition and what the call itself computes
    assert counter.op_count <= 12
    assert writer.stats()["bad_values"] == 0


# Dynamo looks at .grad of every tensor that crosses a graph break, and silences this warning only later.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_training_step(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    found = {}
    for name, backend in (("eager", None), ("compiled", "aot_eager")):
        torch.manual_seed(1)
        net = pickle.loads(pickle.dumps(model))
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with fastlog.SummaryWriter(tmp_path / name) as writer:

            def step(x: torch.Tensor, i: int, net: Any = net, writer: Any = writer) -> torch.Tensor:
                hidden = net[1](net[0](x))
                writer.add_histogram("hidden", hidden, i)
                loss = net[2](hidden).pow(2).mean()
                writer.add_scalar("loss", loss, i)
                return loss

            run = torch.compile(step, backend=backend) if backend else step
            for i in range(5):
                loss = run(torch.randn(16, 4), i)
                loss.backward()
                for parameter_name, parameter in net.named_parameters():
                    writer.add_histogram(parameter_name, parameter.grad, i)
                optimizer.step()
                optimizer.zero_grad()
        found[name] = scalars(tmp_path / name), values(tmp_path / name)
    assert no_noise(heard)
    assert [(tag, step) for tag, step, _ in found["compiled"][0]] == [
        (tag, step) for tag, step, _ in found["eager"][0]
    ]
    for tag, value in found["eager"][1].items():
        ours = found["compiled"][1][tag]
        assert ours.simple_value == pytest.approx(value.simple_value, rel=1e-5)
        assert ours.histo.num == value.histo.num


def test_summarize_in_a_compiled_step() -> None:
    compiled = torch.compile(lambda x: fastlog.summarize(x * 2), backend=CompileCounter())
    assert compiled(torch.ones(3)).sum == 6


def test_whoever_asks_for_one_graph_gets_the_hint(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        compiled = torch.compile(lambda x: writer.add_scalar("x", x), fullgraph=True, backend="eager")
        with pytest.raises(torch._dynamo.exc.Unsupported, match=r"torch\.ops\.fastlog\.summarize"):
            compiled(torch.ones(()))


def test_tensorboardX_itself_is_left_alone() -> None:
    inherited = "add_openvino_graph"
    theirs, ours = getattr(tensorboardX.SummaryWriter, inherited), getattr(fastlog.SummaryWriter, inherited)
    assert not hasattr(theirs, "_torchdynamo_disable") and ours._torchdynamo_disable
    assert theirs.__code__ is not ours.__code__ and theirs.__doc__ == ours.__doc__


def summary_of(parts: tuple[torch.Tensor, ...]) -> fastlog.TensorSummary:
    assert [(part.shape, part.dtype) for part in parts] == [
        ((1548,), torch.int64),
        ((len(COUNTERS),), torch.int64),
        ((len(MOMENTS),), torch.float64),
    ]
    return fastlog.from_tensors(*parts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_op_gives_the_summary(dtype: torch.dtype) -> None:
    for content in CONTENTS:
        tensor = random_tensor(dtype, content, 500, 3)
        assert summary_of(torch.ops.fastlog.summarize(tensor)) == fastlog.summarize(tensor)
    nothing = torch.empty(0, 3, dtype=dtype)
    assert summary_of(torch.ops.fastlog.summarize(nothing)) == fastlog.summarize(nothing)


# The check looks at .grad of a copy, with any op.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("tensor", [torch.randn(3, 4), torch.ones(5, dtype=torch.bfloat16), torch.arange(6)])
def test_the_ops_registration(tensor: torch.Tensor) -> None:
    torch.library.opcheck(torch.ops.fastlog.summarize.default, (tensor,))
    if tensor.is_floating_point():
        torch.library.opcheck(torch.ops.fastlog.summarize.default, (tensor.clone().requires_grad_(),))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_op_in_one_graph(backend: str, tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    weight = torch.randn(4, 4, requires_grad=True)

    def step(x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        y = (x @ weight).tanh()
        return y.sum(), torch.ops.fastlog.summarize(y)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=backend)
    with fastlog.SummaryWriter(tmp_path, on_error="raise") as writer:
        for i, rows in enumerate((2, 3, 7)):
            x = torch.randn(rows, 4)
            loss, parts = compiled(x)
            assert not any(part.requires_grad for part in parts)
            weight.grad = None
            loss.backward()
            assert weight.grad is not None and weight.grad.abs().sum() > 0
            summary = summary_of(parts)
            assert summary.num == 4 * rows
            assert summary.sum == pytest.approx(loss.item(), abs=1e-5)
            writer.add_histogram("y", summary, i)
    assert no_noise(heard)
    assert values(tmp_path)["y"].histo.SerializeToString() == summary.to_proto().SerializeToString()


def test_the_parts_of_two_tensors_add_up() -> None:
    a, b = torch.randn(100), torch.randn(50)
    parts = [torch.ops.fastlog.summarize(x) for x in (a, b)]
    whole = torch.ops.fastlog.summarize(torch.cat([a, b]))
    assert torch.equal(parts[0][0] + parts[1][0], whole[0]) and torch.equal(
        parts[0][1] + parts[1][1], whole[1]
    )


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="complex"):
        torch.ops.fastlog.summarize(torch.ones(2, dtype=torch.complex64))
    counts, counters, moments = torch.ops.fastlog.summarize(torch.ones(2))
    for wrong in (
        (counts[1:], counters, moments),
        (counts, counters[1:], moments),
        (counts, counters, counts),
    ):
        with pytest.raises(ValueError):
            fastlog.from_tensors(*wrong)


def test_a_summary_is_logged_as_its_tensor(tmp_path: Path) -> None:
    tensor = torch.tensor([1.0, np.nan, 3.0])
    with warnings.catch_warnings(), fastlog.SummaryWriter(tmp_path) as writer:
        warnings.simplefilter("ignore", fastlog.FastlogWarning)
        writer.add_histogram("tensor", tensor)
        writer.add_histogram("summary", fastlog.summarize(tensor))
    found = values(tmp_path)
    assert found["tensor"].histo == found["summary"].histo
    assert found["summary/nan"].simple_value == 1


def test_import_does_not_load_the_compiler() -> None:
    check = "import sys, fastlog; assert not {'torch._dynamo', 'torch._inductor'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)
