"""``fastlog.watch``: from what it is given to a watcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from torch import nn
from torch.optim import Optimizer

from fastlog.health.findings import Finding
from fastlog.summaries.stats import STATS
from fastlog.watching import prefixes, ranks, selection, series, watchdog
from fastlog.watching.arguments import (
    checked_budget,
    checked_callable,
    checked_group,
    checked_model,
    checked_names,
    checked_number,
    checked_optimizers,
    checked_prefix,
    checked_writer,
)
from fastlog.watching.budget import Budget
from fastlog.watching.doubts import doubts, without_elements
from fastlog.watching.judging import judge
from fastlog.watching.plan import Plan
from fastlog.watching.series import LOGGABLE
from fastlog.watching.voice import Voice
from fastlog.watching.watcher import Watcher
from fastlog.writer import SummaryWriter

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def watch(
    model: nn.Module,
    writer: SummaryWriter | None,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    every: int = 50,
    offset: int = 0,
    log: str | Iterable[str] = ("weights", "gradients"),
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    modules: str | Iterable[str] | None = None,
    frozen: bool = False,
    histograms: bool = True,
    scalars: Iterable[str] = tuple(STATS),
    tensor_scalars: Iterable[str] = ("norm",),
    group: Literal["layer"] | Callable[[str], str | None] | None = "layer",
    top_k: int | None = None,
    prefix: str | None = None,
    budget: float | None = None,
    snapshot_bytes: int = 2**30,
    step: Callable[[], int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    merge: ProcessGroup | bool | None = None,
    merge_timeout: float = 120.0,
    check_replicas: bool = False,
    health: bool = False,
    mute: Mapping[str, str] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
    loss: str | None = None,
) -> Watcher:
    """Logs the tensors of a model at some of its training steps.

    Hooks on the optimizer find the moment: gradients are read when the optimizer is about to use them
    (accumulated, unscaled, clipped), everything else after its step. All of them carry the number of that
    step.

    ========================  ==========================  ================================================
    ``log``                   histograms                  what it is
    ========================  ==========================  ================================================
    ``weights``               ``weights/NAME``            after the step
    ``gradients``             ``gradients/NAME``          as the optimizer gets them (`Watcher.gradients`)
    ``updates``               ``updates/NAME``            weight after the step minus weight before it
    ``optimizer_state``       ``exp_avg/NAME``, …         state by its key, after the step; no 8-bit codes
    ``activations``           ``activations/MODULE``      the first floating-point tensor of the output
    ``activation_gradients``  ``activation_gradients/…``  the loss's gradient with respect to it
    ========================  ==========================  ================================================

    Scalars are called ``weight_STAT/NAME``, ``grad_STAT/…``, ``update_STAT/…``, ``exp_avg_STAT/…``,
    ``activation_STAT/…``, ``activation_grad_STAT/…`` where NAME is a tensor, a layer or ``global``, the whole
    model: ``grad_norm/global`` is the norm of all gradients together. With updates there is
    ``update_ratio/NAME`` too, the norm of the update over that of the weight. Where a kind has NaN or Inf,
    one line of text (``fastlog/nonfinite``) says between which layers.

    Of a wrapper around an optimizer (Accelerate's, Lookahead, sharpness-aware minimisation) the one inside is
    watched. A second watcher of the same model, with the same writer, takes the place of the first.

    A step that a ``GradScaler`` skips, because it found Inf, is none: the next one is logged instead, and its
    activations are those of both forward passes. Activations inside of what ``torch.compile`` has compiled
    cannot be seen, and the codes of 8-bit optimizers say nothing: both are left out, and a warning says so.

    Args:
        model: may be wrapped by DataParallel, DDP or torch.compile; names are those of the model inside.
        writer: a ``fastlog.SummaryWriter``; where the ranks of a job log together, the first one's logs, and
            the others may have None.
        optimizer: one or several. A step of training is over when all have stepped, or one steps again. None:
            call ``Watcher.step`` in each step.
        every, offset: log the steps whose number is ``offset`` plus a multiple of ``every``.
        log: some of ``LOGGABLE``, or "all".
        include, exclude: regular expressions, searched in the names of parameters and modules.
        modules: regular expressions that choose the modules whose activations are seen; default: those
            without children.
        frozen: parameters that need no gradients too.
        histograms: whether there are any.
        scalars: STATs of layers and the whole model, from ``STATS``.
        tensor_scalars: STATs of each tensor.
        group: "layer": the part of the name up to its first number, or the module; a function of the name
            (None: in no layer); None: no layers.
        top_k: so many tensors of each kind get series of their own: those with NaN or Inf, then those with
            the largest norms. Layers and model still hold all. 0: there are only layers and model.
        prefix: all tags begin with it and a slash: ``"generator"`` gives ``generator/grad_norm/global``.
            Without it a second model that is watched with the same writer gets the name of its class.
        budget: largest share of the training's time that the calling thread may spend here, such as 0.01;
            longer intervals than ``every`` keep to it. ``fastlog/overhead`` and ``fastlog/every`` tell.
        snapshot_bytes: memory for the copies of weights that updates need; where it does not hold all, each
            logged step sees other tensors in turn, and only layers that are whole.
        step: gives the number of the step in progress. None: counted from 0, or from where the optimizer's
            state says that training was left.
        clock: seconds; what the budget is measured with.
        merge: None: where parameters are DTensors (``fully_shard``, tensor parallelism), their ranks log
            together: ``watch`` has to be called on all of them, and the first one's writer gets the summaries
            of the whole model. Of replicas (DDP) the first rank logs and the others nothing. A process group
            (True: all ranks): those ranks log together; tensors that are no DTensors are the same wherever
            they have the same name, activations add up. False: each rank logs what it counts itself.
        merge_timeout: seconds that a rank may be late before the others go on without it, each alone, in the
            directories ``rank_K`` below the log directory.
        check_replicas: ranks that log together and hold the same (HSDP; DDP with ``merge=True``) are
            compared: a warning and ``stats()["merged"]["differing"]`` tell. Costs each replica what it costs
            the first.
        health: rules look at the same summaries, and say what is wrong: a warning, a card (text
            ``fastlog/health``), a series ``fastlog/health/RULE`` that is 1 where it is so. What they have
            to know is kept in the event file.
        mute: findings that are meant to be so: reasons by rule, as in ``{"no-gradient": "frozen so far"}``;
            ``"RULE:REGULAR EXPRESSION"`` for some tensors.
        on_finding: gets each finding when the next step begins, on the thread that trains, and may raise to
            stop it; those of the last steps from ``close`` of the writer.
        loss: tag of the loss among the scalars of this writer; None: as usual (``loss``, ``train/loss``).

    Raises:
        TypeError: not a module, a fastlog writer or an optimizer, or an argument of another type; FSDP1,
            DeepSpeed or Megatron, whose shards are not known, also inside of their wrappers.
        ValueError: an unknown name in ``log``, ``scalars`` or ``tensor_scalars``, a number out of range, no
            regular expression, updates or optimizer state without an optimizer, or a budget where ranks log
            together.

    Warns:
        FastlogWarning: nothing, or not all, will be logged: the optimizer is another model's, no name
            matches, all is frozen, the model is watched already, no step is seen while there are gradients,
            … Once each, with the remedy. NaN and Inf: once for each kind.
    """
    model = checked_model(model)
    merged = ranks.merged_ranks(model, merge)
    if writer is None and ranks.logs_nothing(model, merged):
        writer = SummaryWriter("", write_to_disk=False)
    writer = checked_writer(writer)
    optimizers = checked_optimizers(optimizer)
    voice = Voice(writer.outbox.bad_values)
    every, offset = checked_number("every", every, least=1), checked_number("offset", offset)
    share = checked_budget(budget)
    if merged and share is not None:
        raise ValueError("budget: ranks that log together have to log the same steps; choose every")
    step, asked_prefix = checked_callable("step", step), checked_prefix(prefix)
    options = series.SeriesOptions(
        bool(histograms),
        checked_names("scalars", scalars, STATS),
        checked_names("tensor_scalars", tensor_scalars, STATS),
        _careful(checked_group(group), voice),
        None if top_k is None else checked_number("top_k", top_k, least=0),
    )
    plan = Plan(
        _kinds(log, optimizers),
        selection.Names(include, exclude),
        None if modules is None else selection.Names(modules, None),
        frozen,
        checked_number("snapshot_bytes", snapshot_bytes, least=0),
        options,
    )
    if merge is None and not merged and ranks.is_later_replica(model):
        nothing = replace(plan, log=frozenset())
        return Watcher(model, writer, [], nothing, Budget(every, offset, None, clock), step)
    watchdog.settle(model)
    begin, earlier = prefixes.settle(model, writer, plan.log, asked_prefix, voice)
    hidden = frozenset({series.WEIGHTS}) - plan.log
    plan = replace(plan, options=replace(options, hidden=hidden, prefix=begin and f"{begin}/"))
    together = ranks.together(model, writer, merged, merge_timeout, check_replicas, begin)
    watcher = Watcher(model, writer, optimizers, plan, Budget(every, offset, share, clock), step, together)
    prefixes.enter(watcher, model, writer, plan.log, asked_prefix, begin)
    if earlier is not None:
        watcher.follow(earlier)
    if health:
        watcher.time_ranks(model)
    if health and writer.outbox.writes and (together is None or together.is_first):
        judge(watcher, model, writer, optimizers, plan, mute or {}, on_finding, loss)
    # Where ranks log together, others may have what this one has not.
    for doubt in (*(() if merged else doubts(model, optimizers, plan)), *without_elements(model, plan)):
        voice.say(doubt, doubt)
    return watcher


def _kinds(log: str | Iterable[str], optimizers: Sequence[Optimizer]) -> frozenset[str]:
    kinds = frozenset(checked_names("log", LOGGABLE if log in ("all", ("all",)) else log, LOGGABLE))
    if not optimizers and (needy := {series.UPDATES, series.OPTIMIZER_STATE} & kinds):
        raise ValueError(f"log={sorted(needy)} needs the optimizer")
    return kinds


def _careful(group: Callable[[str], str | None] | None, voice: Voice) -> Callable[[str], str | None] | None:
    """The function, which gives None where it fails."""
    if group is None:
        return None

    def careful(name: str) -> str | None:
        try:
            return group(name)
        except Exception as error:
            voice.tell(
                "group", f"group= raised {type(error).__name__}: {error}; such tensors are in no layer"
            )
            return None

    return careful
