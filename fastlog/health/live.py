"""The rules beside a training that goes on: an observer of a watcher."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tensorboardX import summary as tbx
from tensorboardX.proto.event_pb2 import Event
from torch.optim import Optimizer

from fastlog.common.notices import FastlogWarning
from fastlog.events.items import RAW, SCALAR, Item
from fastlog.health import cards, losses, rules
from fastlog.health.builder import HistoryBuilder
from fastlog.health.findings import SEVERITIES, Finding, RunHealth
from fastlog.health.history import ACTIVATIONS, GRADIENTS, UPDATE_SAMPLES
from fastlog.health.noting import Note, Notebook, NoteReader, number
from fastlog.health.record import Names, Observation, RecordWriter
from fastlog.health.report.tensorboard import Overview
from fastlog.health.samples import Named
from fastlog.health.saturation import Saturation
from fastlog.health.stall import Stall
from fastlog.summaries.packed import Heads

_MAX_BYTES = 32 * 2**20  # of the history
_CREDIT = 0.5  # seconds that judging may take in any case ...
_SHARE = 0.02  # ... and the share of the time beyond them


class Live:
    """Keeps a history of what a watcher logs, writes its records, lets rules judge it. Knows no model.

    Args:
        warn: says something to the user; from any thread.
        hurry: makes the watcher log the next step; from any thread.
        mute: see ``fastlog.health.rules.run``.
        on_finding: gets each finding, on the thread that trains, when its next step begins.
        loss: tag of the loss among the scalars of the writer; None: by convention.
        clock: seconds.
        prefix: of all tags: which of several models it is.
    """

    def __init__(
        self,
        warn: Callable[[str, str], None],
        hurry: Callable[[], None],
        mute: Mapping[str, str],
        on_finding: Callable[[Finding], None] | None,
        loss: str | None,
        clock: Callable[[], float] = time.perf_counter,
        prefix: str = "",
    ) -> None:
        self._tag = f"{prefix}fastlog/health"
        self._who = f"fastlog: {prefix.removesuffix('/')}: " if prefix else "fastlog: "
        self._warn = warn
        self._hurry = hurry
        self._mute = dict(mute)
        self._on_finding = on_finding
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._reader = NoteReader()
        self._records = RecordWriter(prefix)
        self._saturation = Saturation()
        self._overview = Overview(with_layout=False, prefix=prefix)
        self._builder = HistoryBuilder("", _MAX_BYTES)
        self._builder.loss_tag = loss
        self._lock = threading.Lock()
        self._said: dict[str, Finding] = {}
        self._series: dict[str, bool] = {}
        self._waiting: deque[Finding] = deque()
        self._confirming = False
        self._judged = True
        self.health = RunHealth("", -1, -1, (), (), {})

    # ---- on the thread that trains

    @property
    def wants_next(self) -> bool:
        """Whether a finding waits to be handed over, or to be confirmed."""
        return bool(self._waiting) or self._confirming

    def announce(self) -> None:
        """Hands findings over. What ``on_finding`` raises, training gets."""
        self._confirming = False
        while self._waiting:
            finding = self._waiting.popleft()
            if self._on_finding is not None:
                self._on_finding(finding)

    # ---- on the worker

    def scalars(self, items: Sequence[Item]) -> None:
        """Looks for losses among what was written."""
        for item in items:
            if item[0] == SCALAR and item[3] is not None and losses.may_matter(item[1]):
                with self._lock:
                    self._builder.scalar(item[1], item[3], item[2])
                    self._judged = False

    def observe(self, logged: Any) -> list[Item]:
        """A ``fastlog.watching.observers.LoggedStep`` is known: its record, and what it shows."""
        try:
            with self._lock:
                seen = self._observation(logged)
                self._builder.add(seen)
                self._judged = False
                record = (RAW, self._records.event(seen))
                return [record, *self._judge(seen.step, seen.wall_time)]
        except Exception as error:
            self.fail(error)
            return []

    def last_words(self) -> list[Item]:
        """Judges what has not been judged yet, at the end of the log."""
        try:
            with self._lock:
                if self._judged or not self._builder.count:
                    return []
                history = self._builder.history()
                return self._judge(int(history.steps[-1]), float(history.wall_times[-1]), in_any_case=True)
        except Exception as error:
            self.fail(error)
            return []

    def fail(self, error: Exception) -> None:
        """A mistake in here must cost neither the log nor the program: it is said."""
        self._warn("health", f"fastlog.watch: health is not judged: {type(error).__name__}: {error}")

    def stalled(self, now: float, where: str) -> list[Item]:
        """The training has stood still for long, and waits there. Warns at once: no other thread may do."""
        try:
            with self._lock:
                history = self._builder.history()
                history.now = now
                found = rules.run(history, self._mute).findings
        except Exception as error:
            self.fail(error)
            return []
        finding = next((one for one in found if one.rule == "stalled"), None)
        if finding is None:
            return []
        advice = f"It waits in {where}; `py-spy dump --pid {os.getpid()}` shows more."
        finding = replace(finding, evidence={**finding.evidence, "waits in": where}, advice=advice)
        self._waiting.append(finding)
        self._series[finding.rule] = True
        with contextlib.suppress(FastlogWarning):
            warnings.warn(self._who + cards.line(finding), FastlogWarning, stacklevel=2)
        step = finding.last_step
        card = tbx.text(self._tag, cards.card(finding))
        return [
            (RAW, Event(step=step, wall_time=now, summary=card).SerializeToString()),
            (SCALAR, f"{self._tag}/{finding.rule}", 1.0, step, now),
        ]

    def _observation(self, logged: Any) -> Observation:
        note: Note = logged.noted if logged.noted is not None else Note()
        kinds: dict[str, tuple[Names, Heads]] = {
            kind: (tuple(names), heads) for kind, (names, heads, _) in logged.kinds.items()
        }
        gradients = kinds.get(GRADIENTS)
        measures = self._reader.measures(note, None if gradients is None else gradients[0])
        if note.looks is not None:
            kinds[UPDATE_SAMPLES] = note.looks.names, note.looks.updates()
        if note.inventory is not None:
            self._saturation.learn(note.inventory.modules)
        if ACTIVATIONS in logged.kinds:
            measures |= self._saturation.measures(*logged.kinds[ACTIVATIONS])
        merged = logged.merged
        for measure, found, was_compared in (
            ("replicas_differ", merged.differing, bool(merged.compared)),
            ("replicas_alike", merged.alike, ACTIVATIONS in merged.divided),
        ):
            if was_compared:
                measures[measure] = tuple(found), np.ones(len(found))
        lr = tuple(np.nan if (value := number(one)) is None else value for one in note.lr)
        return Observation(
            logged.step,
            logged.wall_time,
            kinds,
            measures,
            note.inventory,
            lr,
            number(note.loss_scale),
            note.optimizer_steps,
        )

    def _judge(self, step: int, wall_time: float, in_any_case: bool = False) -> list[Item]:
        start = self._clock()
        if not in_any_case and self._spent > _CREDIT + _SHARE * (start - self._began):
            return []
        history = self._builder.history()
        self.health = rules.run(history, self._mute)
        self._judged = True
        items = [item for finding in self.health.findings for item in self._say(finding, step, wall_time)]
        items += self._series_items(step, wall_time)
        items += [(RAW, event) for event in self._overview.events(history, self.health.findings, in_any_case)]
        self._spent += self._clock() - start
        return items

    def _say(self, finding: Finding, step: int, wall_time: float) -> list[Item]:
        """The card of a finding that is new, or has become worse."""
        before = self._said.get(finding.rule)
        if before is not None and not _is_worse(finding, before):
            return []
        self._said[finding.rule] = finding
        if finding.severity != "info":
            self._warn(f"{self._tag} {finding.rule} {finding.severity}", self._who + cards.line(finding))
            self._waiting.append(finding)
            self._confirming = True
            self._hurry()
        text = tbx.text(self._tag, cards.card(finding))
        return [(RAW, Event(step=step, wall_time=wall_time, summary=text).SerializeToString())]

    def _series_items(self, step: int, wall_time: float) -> list[Item]:
        """0 or 1 for each rule that has found something once, above information."""
        found = {finding.rule: finding for finding in self.health.findings if finding.severity != "info"}
        items: list[Item] = []
        for rule, finding in found.items():
            if rule not in self._series:
                before = max((s for s in self._steps() if s < finding.first_step), default=None)
                if before is not None:
                    items.append((SCALAR, f"{self._tag}/{rule}", 0.0, before, wall_time))
                self._series[rule] = True
        items += [
            (SCALAR, f"{self._tag}/{rule}", float(rule in found), step, wall_time) for rule in self._series
        ]
        return items

    def _steps(self) -> list[int]:
        steps: list[int] = self._builder.history().steps.tolist()
        return steps


class Attendant:
    """An observer of a watcher (``fastlog.watching.observers.Observer``): takes notes for a ``Live``."""

    def __init__(self, live: Live, notebook: Notebook, stall: Stall) -> None:
        self._live = live
        self._notebook = notebook
        self._stall = stall

    @property
    def wants_next(self) -> bool:
        """Whether the next step has to be logged."""
        return self._live.wants_next

    def announce(self) -> None:
        """Hands findings over."""
        self._live.announce()

    def before_step(self, step: int, params: Named) -> None:
        """Notes what there is before a step."""
        try:
            self._notebook.before(step, params)
        except Exception as error:
            self._live.fail(error)

    def after_step(self, step: int, params: Named, stepped: Collection[Optimizer]) -> Note:
        """Notes what there is after it."""
        self._stall.step_seen()
        try:
            return self._notebook.after(params, stepped)
        except Exception as error:
            self._live.fail(error)
            return Note()

    def observe(self, logged: Any) -> list[Item]:
        """Lets the rules look at it."""
        return self._live.observe(logged)

    def end(self) -> None:
        """Takes away what is hooked into the model."""
        self._notebook.stop()
        self._stall.end()


def _is_worse(finding: Finding, before: Finding) -> bool:
    severer = SEVERITIES.index(finding.severity) < SEVERITIES.index(before.severity)
    return severer or len(finding.tensors) >= 2 * max(1, len(before.tensors))


def weakly(method: Callable[..., Any], otherwise: Any) -> Callable[..., Any]:
    """Calls a bound method as long as its object is there; then gives ``otherwise``."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        found = reference()
        return otherwise if found is None else found(*args)

    return call
