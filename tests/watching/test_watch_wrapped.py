"""`fastlog.watch` on models inside of other things: DDP, torch.compile, checkpointing, LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny_net import LAYERS, Net, gradients, loss_of, weights
from torch import nn
from torch.utils.checkpoint import checkpoint
from watch_oracle import Expected, copy, expect_step, read

from fastlog.common.notices import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def train(model: nn.Module, inner: nn.Module, logdir: Path, writer: SummaryWriter) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=2)
    expected = Expected()
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        grads = gradients(inner)
        optimizer.step()
        if step % 2 == 0:
            expect_step(expected, step, grads, weights(inner))
    writer.close()
    expected.assert_logged(logdir)


@pytest.mark.parametrize("as_views", [False, True])
def test_ddp(tmp_path: Path, writer: SummaryWriter, process_group: None, as_views: bool) -> None:
    model = Net()
    train(
        nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=as_views), model, tmp_path, writer
    )


def test_compile(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    train(torch.compile(model, backend="aot_eager"), model, tmp_path, writer)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of torch.compile itself
def test_a_compiled_part(tmp_path: Path, writer: SummaryWriter) -> None:
    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.layers[0] = torch.compile(model.layers[0], backend="aot_eager")
    watch(model, writer, optimizer, every=1)
    expected = Expected()
    loss_of(model).backward()
    grads = {name.replace("_orig_mod.", ""): grad for name, grad in gradients(model).items()}
    optimizer.step()
    expect_step(expected, 0, grads, {n.replace("_orig_mod.", ""): w for n, w in weights(model).items()})
    writer.close()
    expected.assert_logged(tmp_path)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # inside of torch.compile
@pytest.mark.parametrize("compiled", ["the whole step", "the optimizer's step"])
def test_an_optimizer_inside_of_what_is_compiled(
    tmp_path: Path, writer: SummaryWriter, fresh_compiler: None, compiled: str
) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    seen: list[dict[str, torch.Tensor]] = []
    optimizer.register_step_pre_hook(torch.compiler.disable(lambda *args: seen.append(gradients(model))))
    watch(model, writer, optimizer, every=2, log=("weights", "gradients", "updates"))

    def step(tokens: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(tokens).square().mean().backward()
        optimizer.step()

    if compiled == "the whole step":
        step = torch.compile(step, backend="eager")
    else:
        optimizer.step = torch.compile(optimizer.step, backend="eager")
    expected = Expected()
    for number in range(5):
        before = weights(model)
        step(torch.randint(11, (4, 5)))
        after = weights(model)
        if number == 1:
            first = graphs()
        if number % 2 == 0:
            expect_step(expected, number, seen[number], after)
            updates = {name: copy(after[name] - before[name]) for name in after}
            expected.add(number, "updates", "update", updates, LAYERS)
            expected.add_ratios(number, after, updates, LAYERS)
    assert graphs() == first > 0, "no step compiles anew, and nothing of fastlog's is in a graph"
    writer.close()
    expected.assert_logged(tmp_path)


def test_activations_inside_of_a_compiled_step(writer: SummaryWriter, fresh_compiler: None) -> None:
    """They are not seen, which is said, and leave the graph whole."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations")
    forward = torch.compile(lambda tokens: model(tokens), backend="eager", fullgraph=True)
    with pytest.warns(FastlogWarning, match=r"in step 0: .*inside of what torch\.compile") as caught:
        for _ in range(3):
            forward(torch.randint(11, (4, 5))).square().mean().backward()
            optimizer.step()
    assert len(caught) == 1
    assert graphs() == 1


def test_activations_of_a_compiled_model_are_refused(writer: SummaryWriter) -> None:
    model = torch.compile(Net(), backend="eager")
    with pytest.warns(FastlogWarning, match=r"torch\.compile has compiled cannot be seen"):
        watch(model, writer, torch.optim.SGD(model.parameters(), lr=0.1), log="activations")
    assert not any(module._forward_hooks for module in model.modules()), "each change would compile anew"
    model = Net()
    model.layers[1].compile(backend="eager")
    with pytest.warns(FastlogWarning, match=r"torch\.compile has compiled cannot be seen"):
        watch(model, writer, torch.optim.SGD(model.parameters(), lr=0.1), log="activations")
    tapped = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    tapped.remove("layers.1")  # that is its compiled call
    assert tapped == ["embed", "layers.0.query", "layers.0.norm", "head"]


def test_optimizers_inside_of_the_backward_pass(tmp_path: Path, writer: SummaryWriter) -> None:
    """Each parameter is stepped as soon as its gradient is there, which is then let go."""
    model = Net()
    optimizers = {param: torch.optim.Adam([param], lr=0.1) for param in model.parameters()}
    names = {param: name for name, param in model.named_parameters()}
    grads: dict[str, torch.Tensor] = {}

    def step(param: torch.Tensor) -> None:
        grads[names[param]] = param.grad.clone()
        optimizers[param].step()
        param.grad = None

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(step)
    watch(model, writer, optimizers.values(), every=2)
    expected = Expected()
    for number in range(4):
        loss_of(model).backward()
        if number % 2 == 0:
            expect_step(expected, number, grads, weights(model))
    writer.close()
    expected.assert_logged(tmp_path)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_count_once(tmp_path: Path, writer: SummaryWriter, reentrant: bool) -> None:
    class Checkpointed(Net):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens)
            for layer in self.layers:
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return self.head(x)

    def run(model: nn.Module, logdir: Path) -> dict[str, list[np.ndarray]]:
        torch.manual_seed(1)
        with SummaryWriter(str(logdir)) as to:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            watch(model, to, optimizer, every=1, log=("activations", "activation_gradients"))
            for _ in range(2):
                optimizer.zero_grad()
                loss_of(model).backward()
                optimizer.step()
        events = read(logdir)
        return {
            tag: [
                np.array([*e.histogram_value.bucket, e.histogram_value.num]) for e in events.Histograms(tag)
            ]
            for tag in events.Tags()["histograms"]
        }

    model, plain = Checkpointed(), Net()
    plain.load_state_dict(model.state_dict())
    found, wanted = run(model, tmp_path / "checkpointed"), run(plain, tmp_path / "plain")
    assert found.keys() == wanted.keys() and len(found) == 12
    for tag, histograms in wanted.items():
        assert len(found[tag]) == 2
        for ours, theirs in zip(found[tag], histograms, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=tag)


def test_adapters_are_called_as_in_the_model_inside(tmp_path: Path, writer: SummaryWriter) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["head"], init_lora_weights=False)
    model = peft.get_peft_model(Net(), config)
    trainable = [name for name, param in model.named_parameters() if param.requires_grad]
    assert len(trainable) == 6
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    watch(model, writer, optimizer, every=1, log=("weights", "gradients", "updates"))
    inner = {name: name.removeprefix("base_model.model.") for name in trainable}
    layers = {
        "layers.0": [f"layers.0.query.lora_{factor}.default.weight" for factor in "AB"],
        "layers.1": [f"layers.1.query.lora_{factor}.default.weight" for factor in "AB"],
        "head.modules_to_save.default": [
            f"head.modules_to_save.default.{name}" for name in ("weight", "bias")
        ],
    }
    assert sorted(inner.values()) == sorted(name for names in layers.values() for name in names)
    expected = Expected()
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        grads, before = {inner[n]: grad for n, grad in gradients(model).items()}, weights(model)
        optimizer.step()
        after = {inner[name]: weights(model)[name] for name in trainable}
        expected.add(step, "gradients", "grad", grads, layers)
        expected.add(step, "weights", "weight", after, layers)
        updates = {inner[name]: copy(after[inner[name]] - before[name]) for name in trainable}
        expected.add(step, "updates", "update", updates, layers)
        expected.add_ratios(step, after, updates, layers)
    writer.close()
    expected.assert_logged(tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_prompts_and_activations_are_called_as_in_the_model_inside(
    tmp_path: Path, writer: SummaryWriter
) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=11, **sizes))
    model = peft.get_peft_model(model, peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3))
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=0.1)
    log = ("gradients", "activations")
    with watch(model, writer, optimizer, every=1, log=log, modules="mlp$|^lm_head$"):
        tokens = torch.randint(11, (2, 4))
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    writer.close()
    assert set(read(tmp_path).Tags()["histograms"]) == {
        "gradients/prompt_encoder.default.embedding.weight",
        "activations/model.layers.0.mlp",
        "activations/lm_head",
    }
