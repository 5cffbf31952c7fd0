"""Lets the rules of health look at what a watcher logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from fastlog.health.findings import Finding
from fastlog.health.live import Attendant, Live, weakly
from fastlog.health.noting import Notebook
from fastlog.watching import selection, series
from fastlog.watching.plan import Plan
from fastlog.watching.watcher import Watcher
from fastlog.writer import SummaryWriter


def judge(
    watcher: Watcher,
    model: nn.Module,
    writer: SummaryWriter,
    optimizers: Sequence[Optimizer],
    plan: Plan,
    mute: Mapping[str, str],
    on_finding: Callable[[Finding], None] | None,
    loss: str | None,
) -> None:
    """Findings are said with the writer's warnings, and written to its file. See ``fastlog.watch``."""
    seen = bool(plan.log & {series.ACTIVATIONS, series.ACTIVATION_GRADIENTS})

    def classes() -> dict[str, str]:
        found = selection.modules(model, plan.names, plan.modules) if seen else []
        return {name: type(module).__name__ for name, module in found}

    notebook = Notebook(
        lambda: selection.owned_parameters(model, plan.names),
        optimizers,
        classes,
        probe=not selection.compiled(model),
    )
    live = Live(writer.notices.tell, weakly(watcher.hurry, None), mute, on_finding, loss)
    watcher.on_moment(Attendant(live, notebook))
    writer.on_items(live.scalars)
    writer.on_close(live.last_words)
