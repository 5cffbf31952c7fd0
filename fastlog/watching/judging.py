"""Lets the rules of health look at what a watcher logs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from fastlog.events.items import JOB
from fastlog.health.findings import Finding
from fastlog.health.inventory import Owned
from fastlog.health.live import Attendant, Live, weakly
from fastlog.health.noting import Notebook
from fastlog.health.stall import Stall
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

    held = weakref.ref(model)

    def owned() -> Owned:
        found = held()
        if found is None:
            return []
        return [one for one in selection.owned_parameters(found, plan.names) if not is_lazy(one[1])]

    def classes() -> dict[str, str]:
        found = held()
        modules = selection.modules(found, plan.names, plan.modules) if seen and found is not None else []
        return {name: type(module).__name__ for name, module in modules}

    notebook = Notebook(
        owned,
        optimizers,
        classes,
        probe=not selection.compiled(model),
    )
    live = Live(
        writer.outbox.bad_values.tell,
        weakly(watcher.hurry, None),
        mute,
        on_finding,
        loss,
        prefix=plan.options.prefix,
    )
    outbox = weakref.ref(writer.outbox)
    judge_stall = weakly(live.stalled, [])

    def stalled(now: float, where: str) -> None:
        items, there = judge_stall(now, where), outbox()
        if items and there is not None:
            there.main().put((JOB, lambda: items, 0, True, "fastlog.watch"), 0, True)

    stall = Stall(stalled)
    weakref.finalize(live, stall.end)
    watcher.on_moment(Attendant(live, notebook, stall))
    writer.outbox.on_items(live.scalars)

    def closed() -> None:
        stall.end()
        live.announce()

    writer.outbox.on_close(live.last_words, closed)
