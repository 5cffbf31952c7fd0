"""What `fastlog.watch` cannot read costs itself alone, and one word; nothing is raised into training."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from tiny_net import Net, loss_of, train
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from watch_oracle import read, steps

from fastlog import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """The warnings of fastlog, as texts."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(w.message) for w in caught if w.category is FastlogWarning]


def histograms(logdir: Path) -> set[str]:
    return set(read(logdir).Tags()["histograms"])


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.bool]
)
def test_updates_of_frozen_parameters_of_any_dtype(
    tmp_path: Path, writer: SummaryWriter, dtype: torch.dtype
) -> None:
    model = Net()
    codes = torch.tensor([0, 1, 1, 0]).to(dtype)
    model.codes = nn.Parameter(codes, requires_grad=False)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    watch(model, writer, optimizer, every=1, frozen=True, log=("weights", "gradients", "updates"))
    train(model, optimizer, 1)
    with torch.no_grad():
        optimizer.register_step_post_hook(lambda *_: None)
    writer.close()
    names = [name for name, _ in model.named_parameters()]
    assert histograms(tmp_path) == {
        *(f"{kind}/{name}" for kind in ("weights", "updates") for name in names),
        *(f"gradients/{name}" for name in names if name != "codes"),
    }
    assert [event.value for event in read(tmp_path).Scalars("update_norm/codes")] == [0.0]


def test_an_update_of_a_float8_parameter_is_exact(tmp_path: Path, writer: SummaryWriter) -> None:
    model = nn.Module()
    model.linear = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn), requires_grad=False)

    class Both(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step(closure)
            model.scale.data = torch.tensor([2.0, -2.5]).to(torch.float8_e4m3fn)

    optimizer = Both(model.linear.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, frozen=True, log="updates", tensor_scalars=("min", "max"))
    model.linear(torch.ones(2)).sum().backward()
    optimizer.step()
    writer.close()
    events = read(tmp_path)
    assert events.Scalars("update_min/scale")[0].value == -0.5
    assert events.Scalars("update_max/scale")[0].value == 0.5


def test_a_lazy_module_that_never_runs_is_left_out(tmp_path: Path, writer: SummaryWriter) -> None:
    model = nn.ModuleDict({"body": nn.Linear(5, 2), "head": nn.LazyLinear(3)})
    optimizer = torch.optim.Adam(model["body"].parameters())
    log = ("weights", "updates", "optimizer_state", "gradients")
    watch(model, writer, optimizer, every=1, log=log)
    with pytest.warns(
        FastlogWarning, match=r"head\.weight belongs to a lazy module that has not run"
    ) as caught:
        for _ in range(2):
            model["body"](torch.randn(3, 5)).sum().backward()
            optimizer.step()
    assert len(caught) == 1
    writer.close()
    kinds = ("weights", "updates", "gradients", "exp_avg", "exp_avg_sq")
    assert histograms(tmp_path) == {f"{kind}/body.{name}" for kind in kinds for name in ("weight", "bias")}


def test_a_lazy_module_that_runs_is_logged(tmp_path: Path, writer: SummaryWriter) -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    watcher = watch(model, writer, every=1, log="weights")
    model(torch.ones(2))
    watcher.step()
    writer.close()
    assert histograms(tmp_path) == {"weights/0.weight", "weights/0.bias"}


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (torch.optim.Adam, {"exp_avg", "exp_avg_sq"}),
        (torch.optim.NAdam, {"exp_avg", "exp_avg_sq"}),
        (torch.optim.ASGD, {"ax"}),
        (torch.optim.RMSprop, {"square_avg"}),
    ],
)
def test_the_state_of_a_parameter_without_dimensions(
    tmp_path: Path, writer: SummaryWriter, make: Any, keys: set[str]
) -> None:
    model = nn.Module()
    model.temperature = nn.Parameter(torch.tensor(2.0))
    optimizer = make(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="optimizer_state")
    (model.temperature**2).backward()
    optimizer.step()
    writer.close()
    assert histograms(tmp_path) == {f"{key}/temperature" for key in keys}
    for key in keys:
        value = float(optimizer.state[model.temperature][key])
        assert read(tmp_path).Scalars(f"{key}_max/global")[0].value == pytest.approx(value)


@pytest.mark.filterwarnings("ignore:fastlog.* values were not logged")  # the total, where the writer closes
def test_complex_parameters_are_called_what_they_are(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    model.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = torch.optim.Adam(model.parameters())
    watch(model, writer, optimizer, every=1, log=("weights", "gradients", "updates", "optimizer_state"))
    with said() as texts:
        for _ in range(2):
            optimizer.zero_grad()
            (loss_of(model) + model.phase.abs().sum()).backward()
            optimizer.step()
    places = [text.partition(":")[0] for text in texts]
    assert places == [
        "gradients/phase",
        "weights/phase",
        "updates/phase",
        "exp_avg/phase",
        "exp_avg_sq/phase",
    ]
    assert all("complex values" in text for text in texts)
    writer.close()
    assert (
        steps(tmp_path, "exp_avg_norm/embed.weight") == steps(tmp_path, "update_norm/embed.weight") == [0, 1]
    )


def test_state_that_is_no_dict_or_no_number(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[model.head.weight]["step"] = torch.zeros(2, 2)
    optimizer.state[model.head.bias] = {"note": "of the user", "step": None}  # type: ignore[assignment]
    watch(model, writer, optimizer, every=1, log=("weights", "optimizer_state"))
    loss_of(model).backward()
    optimizer.step()
    writer.close()
    assert steps(tmp_path, "momentum_buffer_norm/embed.weight") == [0]


class Plain(NamedTuple):
    number: int
    logits: torch.Tensor


@dataclass
class Output:
    loss: torch.Tensor | None
    logits: Any


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: Output(None, x),
        lambda x: Output(None, Output(None, [x])),
        lambda x: Plain(3, x),
        lambda x: {"a": {"b": x}},
        lambda x: MappingProxyType({"logits": x}),
        lambda x: (None, torch.tensor([1]), x),
    ],
    ids=["dataclass", "nested dataclass", "named tuple", "dicts", "mapping", "tuple"],
)
def test_outputs_of_any_form_are_seen(tmp_path: Path, writer: SummaryWriter, wrap: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> Any:
            self.output = self.linear(x)
            return wrap(self.output)

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations", modules=".*")
    model(torch.randn(4, 3))
    model.output.sum().backward()
    optimizer.step()
    writer.close()
    counted = [e.histogram_value.num for tag in histograms(tmp_path) for e in read(tmp_path).Histograms(tag)]
    assert counted == [8, 8], "of the layer and of the model"


def test_an_output_without_a_tensor_is_named(tmp_path: Path, writer: SummaryWriter) -> None:
    class Opaque:
        pass

    class Codes(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            self.x = x
            return Opaque()

    model = nn.Sequential(nn.Linear(3, 2), Codes())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations")
    with pytest.warns(
        FastlogWarning, match="as of 1: its output, a Opaque, has no floating-point tensor"
    ) as caught:
        for _ in range(2):
            model(torch.randn(4, 3))
            model[1].x.sum().backward()
            optimizer.step()
    assert len(caught) == 1
    writer.close()
    assert histograms(tmp_path) == {"activations/0"}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_part_is_left_out(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    model.layers[0].query = torch.jit.script(model.layers[0].query)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.warns(
        FastlogWarning, match=r"torch\.jit has scripted, as of layers\.0\.query, cannot"
    ) as caught:
        watch(model, writer, optimizer, every=1, offset=2, log="all")
        train(model, optimizer, 3)
    assert len(caught) == 1
    writer.close()
    seen = {tag for tag in histograms(tmp_path) if tag.startswith("activations/")}
    assert seen == {
        f"activations/{n}" for n in ("embed", "layers.0.norm", "layers.1.query", "layers.1.norm", "head")
    }
    assert "gradients/layers.0.query.weight" in histograms(tmp_path)


def of_parameters(model: nn.Module, x: torch.Tensor) -> Any:
    params = {name: param.detach() for name, param in model.named_parameters()}
    return vmap(grad(lambda p, v: functional_call(model, p, (v,)).sum()), (None, 0))(params, x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # inside of torch.func
@pytest.mark.parametrize(
    "transform",
    [
        lambda model, x: vmap(model)(x),
        lambda model, x: grad(lambda v: model(v).sum())(x),
        lambda model, x: jacrev(model)(x[0]),
        lambda model, x: jacfwd(model)(x[0]),
        lambda model, x: hessian(lambda v: model(v).sum())(x[0]),
        lambda model, x: jvp(model, (x,), (x,)),
        lambda model, x: vjp(model, x)[1](torch.ones(3, 2)),
        of_parameters,
    ],
    ids=["vmap", "grad", "jacrev", "jacfwd", "hessian", "jvp", "vjp", "per-sample gradients"],
)
def test_transforms_of_a_watched_model_work(tmp_path: Path, writer: SummaryWriter, transform: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(3, 4)
    wanted = transform(model, x)
    watch(model, writer, optimizer, every=1, log=("activations", "activation_gradients"))
    with said() as texts:
        found = transform(model, x)
    assert len(texts) <= 1 and all("transform of torch.func" in text for text in texts)
    torch.testing.assert_close(
        found[:2] if isinstance(found, tuple) else found, wanted[:2] if isinstance(wanted, tuple) else wanted
    )
    model(x).sum().backward()
    optimizer.step()
    writer.close()
    assert steps(tmp_path, "activation_norm/0") == steps(tmp_path, "activation_grad_norm/0") == [0]
    assert [e.histogram_value.num for e in read(tmp_path).Histograms("activations/0")] == [12]


def test_passes_without_values_do_not_count(tmp_path: Path, writer: SummaryWriter) -> None:
    """Those that only ask for shapes: on the meta device, with fake tensors, or traced."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = nn.Sequential(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model(torch.ones(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, torch.ones(3, 4), check_trace=False)
    torch.func.functional_call(
        model, {n: p.to("meta") for n, p in model.named_parameters()}, torch.ones(3, 4, device="meta")
    )
    model(torch.ones(5, 4)).sum().backward()
    optimizer.step()
    writer.close()
    assert [e.histogram_value.num for e in read(tmp_path).Histograms("activations/0")] == [10]
    assert writer.stats()["bad_values"] == 0


def test_one_reason_is_one_word_for_all_tensors_that_have_it(tmp_path: Path, writer: SummaryWriter) -> None:
    """As of a model whose weights are quantised: hundreds of tensors."""

    class Packed(torch.Tensor):
        __module__ = "bitsandbytes.nn"

    model = Net()
    for index in range(50):
        codes = torch.zeros(4, dtype=torch.uint8).as_subclass(Packed)
        model.register_parameter(f"packed{index}", nn.Parameter(codes, requires_grad=False))
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    watch(model, writer, optimizer, every=1, log=("weights", "updates"), frozen=True)
    with pytest.warns(
        FastlogWarning, match="weights/packed0 and 49 more: nothing is logged.*packed"
    ) as caught:
        train(model, optimizer, 3)
    assert len(caught) == 1
    with pytest.warns(
        FastlogWarning,
        match="^fastlog: 150 values were not logged: weights/packed0 and 49 more × 150; see st",
    ) as caught:
        writer.close()
    assert len(caught) == 1
    assert writer.stats()["bad_values"] == 3 * 50
    assert steps(tmp_path, "update_norm/embed.weight") == [0, 1, 2]


def test_a_group_function_that_fails_costs_the_layers_alone(tmp_path: Path, writer: SummaryWriter) -> None:
    def group(name: str) -> str | None:
        if "norm" in name:
            raise KeyError(name)
        return None if "bias" in name else "matrices"

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="weights", group=group)
    with pytest.warns(FastlogWarning, match=r"group= raised KeyError: 'layers\.0\.norm\.weight'") as caught:
        train(model, optimizer, 2)
        writer.close()
    assert len(caught) == 1
    tags = read(tmp_path).Tags()["scalars"]
    assert {tag for tag in tags if tag.startswith("weight_rms/")} == {
        "weight_rms/global",
        "weight_rms/matrices",
    }
    assert steps(tmp_path, "weight_norm/layers.0.norm.weight") == [0, 1]
