"""Health beside a training: odd models cost it nothing, and its own mistakes cost the log nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from watch_oracle import read

import fastlog
from fastlog.health import rules
from fastlog.health.findings import Finding
from fastlog.health.noting import Notebook


def train(tmp_path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> None:
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        fastlog.watch(model, writer, optimizer, every=1, health=True, **options)
        for _ in range(3):
            sum(
                param.square().sum() for group in optimizer.param_groups for param in group["params"]
            ).backward()
            optimizer.step()
            optimizer.zero_grad()


def steps_of_records(tmp_path: Path) -> list[int]:
    return fastlog.load(tmp_path).raw("fastlog/health/record").steps.tolist()


def test_a_lazy_module_that_never_runs_is_no_matter(tmp_path: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(5, 2), "head": nn.LazyLinear(3)})
    with pytest.warns(fastlog.FastlogWarning, match=r"head\.weight belongs to a lazy module") as said:
        train(tmp_path, model, torch.optim.Adam(model["body"].parameters()))
    assert len(said) == 1 and steps_of_records(tmp_path) == [0, 1, 2]


def test_an_optimizer_whose_step_is_no_number_is_no_matter(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[model.weight]["step"] = torch.zeros(2, 2)
    train(tmp_path, model, optimizer)
    assert steps_of_records(tmp_path) == [0, 1, 2]


def test_parameters_without_elements_are_no_matter(tmp_path: Path) -> None:
    model = nn.Module()
    model.full, model.empty = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(0, 4))
    with pytest.warns(fastlog.FastlogWarning, match="empty has no elements") as said:
        train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert len(said) == 1
    ((health,), (run,)) = fastlog.check(tmp_path), [fastlog.load(tmp_path)]
    assert health.last_step == run.last_step == 2


@pytest.mark.parametrize("at", ["before", "after", "rules"])
def test_a_mistake_of_health_costs_the_log_nothing_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    if at == "rules":
        monkeypatch.setattr(rules, "run", mistaken)
    else:
        monkeypatch.setattr(Notebook, at, mistaken)
    model = nn.Linear(3, 2)
    with pytest.warns(
        fastlog.FastlogWarning, match="health is not judged: ZeroDivisionError: a mistake"
    ) as said:
        train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert len(said) == 1
    assert [event.step for event in read(tmp_path).Scalars("grad_norm/global")] == [0, 1, 2]


def test_what_is_found_at_the_last_step_comes_to_on_finding_from_close(tmp_path: Path) -> None:
    model, found = nn.Linear(3, 2), []

    def on_finding(finding: Finding) -> None:
        found.append((finding.rule, finding.first_step))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = fastlog.SummaryWriter(str(tmp_path))
    fastlog.watch(model, writer, optimizer, every=1, health=True, on_finding=on_finding)
    (float("nan") * model(torch.ones(1, 3)).sum()).backward()
    optimizer.step()
    assert not found
    with pytest.warns(fastlog.FastlogWarning):
        writer.close()
    assert found == [("nonfinite", 0)]


@pytest.mark.parametrize("prefixes", [("generator", "critic"), (None, None)], ids=["named", "unnamed"])
def test_two_models_of_one_writer_are_judged_apart(tmp_path: Path, prefixes: tuple[str | None, ...]) -> None:
    generator, critic = nn.Linear(3, 2), nn.Bilinear(2, 2, 1)
    generator.bias.requires_grad_(False)
    told: list[tuple[str, str]] = []
    with pytest.warns(fastlog.FastlogWarning) as said, fastlog.SummaryWriter(str(tmp_path)) as writer:
        optimizers = []
        for model, prefix in zip((generator, critic), prefixes, strict=True):
            optimizers.append(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
            name = type(model).__name__
            fastlog.watch(
                model,
                writer,
                optimizers[-1],
                every=1,
                prefix=prefix,
                health=True,
                on_finding=lambda finding, name=name: told.append((name, finding.rule)),
            )
        for step in range(4):
            made = generator(torch.ones(4, 3))
            loss = critic(made, made).square().mean()
            (loss if step < 2 else float("nan") * loss).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    second = prefixes[1] or "Bilinear"
    runs = {health.run: health for health in fastlog.check(tmp_path)}
    first = f"{tmp_path.name} ({prefixes[0]})" if prefixes[0] else tmp_path.name
    assert set(runs) == {first, f"{tmp_path.name} ({second})"}
    for name, tensors in ((first, {"weight"}), (f"{tmp_path.name} ({second})", {"weight", "bias"})):
        (finding,) = [one for one in runs[name].findings if one.rule == "nonfinite"]
        assert (finding.first_step, set(finding.tensors)) == (2, tensors)
    assert {("Linear", "nonfinite"), ("Bilinear", "nonfinite")} <= set(told)
    assert sum("; nonfinite)" in str(w.message) for w in said) == 2
    assert any(str(w.message).startswith(f"fastlog: {second}: ") for w in said)
    scalars = fastlog.load(tmp_path).tags["scalars"]
    assert f"{second}/fastlog/health/nonfinite" in scalars
