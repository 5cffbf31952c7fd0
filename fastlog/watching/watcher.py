"""The moments of training at which a model is looked at, and the hooks that find them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fastlog.common.no_compile import eager, eager_methods
from fastlog.common.notices import SinkError
from fastlog.distributed.parts import Merged, Record
from fastlog.events.items import DEVICE, JOB
from fastlog.summaries.engines import NoRoom, pack_many, refuse_captured
from fastlog.summaries.tensors import view_of
from fastlog.watching import reading, selection, series
from fastlog.watching.activations import Taps
from fastlog.watching.budget import Budget
from fastlog.watching.observers import Observer, Observers
from fastlog.watching.optimizer_step import is_nested, then_once
from fastlog.watching.plan import Plan
from fastlog.watching.ranks import Ranks
from fastlog.watching.reading import Reading
from fastlog.writer import SummaryWriter

_RECORD_BYTES = 250  # of Python objects around a packed summary that waits


@dataclass
class Moment:
    """One logged step in the making."""

    step: int
    params: reading.Named
    records: list[Record] = field(default_factory=list)
    has_gradients: bool = False  # by an explicit call: the optimizer's step does not read them again
    read_for: set[Optimizer] = field(default_factory=set)
    noted: list[Any] = field(default_factory=list)  # by each observer


@eager_methods
class Watcher:
    """Logs the tensors of a model at some of its training steps; made by ``fastlog.watch``.

    Also a context manager that removes itself at the end.
    """

    __module__ = "fastlog.watching"

    def __init__(
        self,
        model: nn.Module,
        writer: SummaryWriter,
        optimizers: Sequence[Optimizer],
        plan: Plan,
        budget: Budget,
        step_of: Callable[[], int] | None,
        ranks: Ranks | None = None,
    ) -> None:
        self._model = model
        self._writer = writer
        self._optimizers = optimizers
        self._plan = plan
        self._budget = budget
        self._step_of = step_of
        self._ranks = ranks
        self._observers = Observers()
        self._step = 0
        self._due = -1  # the first step has to be found first
        self._last = -1
        self._started = False
        self._stepped: set[Optimizer] = set()
        self._inside: Optimizer | None = None  # the one whose step is going on, or has raised
        self._depth = 0
        self._moment: Moment | None = None
        self._seen: list[Record] = []  # activations, from the forward passes before the moment
        self._snapshots = reading.Snapshots(plan.snapshot_bytes)
        self._taps: Taps | None = None
        if kinds := plan.log & {series.ACTIVATIONS, series.ACTIVATION_GRADIENTS}:
            self._taps = Taps(model, plan.names, plan.modules, kinds, self._see)
            if selection.compiled(model):
                self._say("compiled", "activations inside of what torch.compile has compiled cannot be seen")
        self._handles = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            )
        ]
        first = reading.steps_taken(optimizers) if step_of is None else step_of()
        if self._taps is not None and first == budget.first_due(first):
            self._taps.arm()

    @property
    def every(self) -> int:
        """Steps from one logged step to the next; more than asked for where the budget says so."""
        return self._budget.every

    def step(self, number: int | None = None) -> None:
        """Without an optimizer: call it in each step when the gradients are final; logs them and the weights.

        With one: says which number the step in progress has, where the watcher should not count by itself.
        A number smaller than the last logged one starts anew.
        """
        if number is not None:
            self._step, self._started = number, True
            if number < self._last:  # training starts anew
                self._due = self._last = -1
        self._start()
        if self._optimizers:
            self._arm()
            return
        if self._step >= self._due:
            with self._logging():
                moment = self._open()
                if not moment.has_gradients:
                    self._read_gradients(moment, moment.params, None)
        self._end_round()

    def gradients(self) -> None:
        """Reads the gradients now, say before they are clipped, and not again when the optimizer steps.

        Gradients of a ``GradScaler`` are to be unscaled before.
        """
        self._find_step()
        if self._step >= self._due:
            with self._logging():
                moment = self._open()
                self._read_gradients(moment, moment.params, None)
                moment.has_gradients = True

    def log_next(self) -> None:
        """The next step is logged, whatever ``every`` says."""
        self._due = 0
        self._arm()

    def on_moment(self, observer: Observer) -> None:
        """From now on the observer sees each logged step, too."""
        self._observers.add(observer)

    def hurry(self) -> None:
        """As ``log_next``, for any thread; nothing where ranks log together: all log the same steps."""
        if self._ranks is None:
            self._due = 0

    def rank_scalars(self, **numbers: float) -> None:
        """Numbers of this rank, such as seconds of waiting for data: ``rank_scalars(data_wait=0.02)``.

        With the next logged step the last ones of all ranks are logged as ``fastlog/ranks/NAME/min``,
        ``median``, ``max`` and ``slowest_rank``, the rank of the largest. Where ranks do not log together:
        nothing.
        """
        if self._ranks is not None:
            self._ranks.note(numbers)

    def remove(self) -> None:
        """Takes all hooks away; what has been read of an unfinished step is logged. Safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._moment is not None:
            self._close(self._moment)
        self._forget_activations()
        if self._ranks is not None:
            self._ranks.end()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    # The two hooks run at every step: what they do before they know that nothing is to be logged has to be
    # little.

    @eager
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._inside is optimizer and is_nested(optimizer):
            self._depth += 1
            return None
        self._inside, self._depth = optimizer, 0
        if self._stepped and optimizer in self._stepped:  # again, before the others have
            self._end_round()
        if self._step_of is not None:
            self._step = self._step_of()
        if self._step < self._due:
            return None
        return self._look_before(optimizer, args, kwargs)

    @eager
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._depth:
            self._depth -= 1
            return
        self._inside = None
        if len(self._optimizers) > 1:
            self._stepped.add(optimizer)
            if len(self._stepped) < len(self._optimizers):
                return
        self._end_round()

    def _end_round(self) -> None:
        if self._stepped:
            self._stepped.clear()
        if self._moment is not None:
            self._close(self._moment)
        self._step += 1
        if self._taps is not None and self._step >= self._due:
            self._taps.arm()

    def _look_before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self._find_step()
        if self._step < self._due:
            self._forget_activations()
            return None
        with self._logging():
            if self._moment is not None and optimizer in self._moment.read_for:
                self._moment = None  # its step raised
            moment = self._open()
            moment.read_for.add(optimizer)
            if moment.has_gradients or series.GRADIENTS not in self._plan.log:
                return None
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if closure is None:
                self._read_own_gradients(moment, optimizer)
                return None

            def read() -> None:
                with self._logging():
                    self._read_own_gradients(moment, optimizer)

            closure = then_once(closure, read)  # which makes the gradients, inside of the step
            if len(args) > 1:
                return (args[0], closure, *args[2:]), kwargs
            return args, {**kwargs, "closure": closure}
        return None

    def _find_step(self) -> None:
        if self._step_of is not None:
            self._step = self._step_of()
        self._start()

    def _start(self) -> None:
        if not self._started and self._step_of is None:
            self._step = max(self._step, reading.steps_taken(self._optimizers))
        self._started = True
        if self._due < 0:
            self._due = self._budget.first_due(self._step)

    def _arm(self) -> None:
        if self._taps is not None and self._step >= self._due:
            self._taps.arm()

    def _open(self) -> Moment:
        if self._moment is None:
            params = selection.parameters(self._model, self._plan.names)
            refuse_captured(param for _, param in params)
            self._budget.on_devices.look_at(param for _, param in params)
            if not self._plan.frozen:
                params = [(name, param) for name, param in params if param.requires_grad]
            self._moment = Moment(self._step, params)
            if series.UPDATES in self._plan.log:
                self._snapshots.take(params)
            self._observers.before_step(self._step, params)
        return self._moment

    def _read_own_gradients(self, moment: Moment, optimizer: Optimizer) -> None:
        params = moment.params if len(self._optimizers) == 1 else reading.owned_by(moment.params, optimizer)
        # A fused optimizer gets them scaled, and this beside them.
        self._read_gradients(moment, params, getattr(optimizer, "grad_scale", None))

    def _read_gradients(self, moment: Moment, params: reading.Named, scale: torch.Tensor | None) -> None:
        if series.GRADIENTS in self._plan.log:
            moment.records += self._summarise(reading.gradients(params), scale)

    def _close(self, moment: Moment) -> None:
        self._moment = None
        with self._logging():
            refuse_captured(param for _, param in moment.params)
            moment.records += self._summarise(self._readings_after(moment))
            moment.noted = self._observers.after_step(moment.step, moment.params, moment.read_for)
        moment.records += self._seen
        if self._taps is not None and self._taps.idle:
            self._say(
                "unseen",
                f"no activations were seen in step {moment.step}: its forward pass was part of something "
                "compiled, or was over when it turned out that the step is to be logged",
            )
        self._snapshots.drop()
        self._forget_activations()
        extra = self._settle(moment.step)
        self._last = moment.step
        self._due = self._budget.next_due(moment.step)
        with self._logging():
            self._put(moment, extra)
        if self._observers.want_next:
            self.hurry()

    def _readings_after(self, moment: Moment) -> list[Reading]:
        log, readings = self._plan.log, []
        if log & {series.WEIGHTS, series.UPDATES}:
            readings += reading.weights(moment.params)
        if series.UPDATES in log:
            readings += self._snapshots.updates()
        if series.OPTIMIZER_STATE in log:
            state, left_out = reading.optimizer_state(moment.params, self._optimizers)
            readings += state
            if left_out:
                self._say("codes", f"optimizer state in codes, as of {left_out[0]}, is left out")
        return readings

    def _settle(self, step: int) -> dict[str, float]:
        asked = self.every
        settled = self._budget.settle(step)
        if settled is None:
            return {}
        if settled.every > asked:
            self._say(
                "budget",
                f"logging every {asked} steps took {settled.overhead:.1%} of the time; now every "
                f"{settled.every}, to stay within {self._budget.share:.1%} (more in fastlog/every)",
            )
        return {"fastlog/overhead": settled.overhead, "fastlog/every": float(settled.every)}

    def _say(self, topic: str, message: str) -> None:
        """A warning, once per topic."""
        self._writer._bad_values.tell(f"fastlog.watch {id(self)} {topic}", f"fastlog.watch: {message}")
        self._writer._bad_values.warn()

    def _forget_activations(self) -> None:
        self._seen = []
        if self._taps is not None:
            self._taps.disarm()

    def _see(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        with self._logging():
            self._seen += self._summarise([Reading(kind, name, tensor)])

    def _summarise(self, readings: list[Reading], scale: torch.Tensor | None = None) -> list[Record]:
        readings = (
            [r for r in readings if r.tensor.numel()] if self._ranks is None else self._ranks.own(readings)
        )
        try:
            return self._pack(readings, scale)
        except TypeError:
            return self._pack([r for r in readings if self._is_readable(r)], scale)

    def _pack(self, readings: list[Reading], scale: torch.Tensor | None) -> list[Record]:
        names = [f"{r.kind}/{r.name}" for r in readings]
        try:
            packed = pack_many([r.tensor for r in readings], names, self._writer._patience, scale)
        except NoRoom:
            self._writer._refuse()
            return []
        return [Record(r.kind, r.name, p, r.part, r.whole) for r, p in zip(readings, packed, strict=True)]

    def _is_readable(self, r: Reading) -> bool:
        place = f"{r.kind}/{r.name}"
        try:
            view_of(r.tensor, place)
        except TypeError as error:
            self._writer._bad_values.report(place, error)
            return False
        return True

    def _put(self, moment: Moment, extra: dict[str, float]) -> None:
        step, wall_time = self._writer._get_file_writer().stamp(moment.step, None)
        began = time.monotonic() - self._budget.cost

        def put(merged: Merged, writer: SummaryWriter, scalars: dict[str, float]) -> None:
            observe = self._observers.of_step(moment.step, wall_time, moment.noted, merged)
            run = partial(
                series.items, merged.records, extra | scalars, step, wall_time, self._plan.shape, observe
            )
            nbytes = sum(len(record.packed) + _RECORD_BYTES for record in merged.records)
            on_device = any(type(record.packed) is not bytes for record in merged.records)
            tags = partial(series.tags, merged.records, self._plan.shape)
            job = (JOB, run, nbytes, True, "fastlog.watch", DEVICE if on_device else None, tags)
            writer._get_file_writer().put(job, nbytes, True, began)

        if self._ranks is None:
            put(Merged(moment.records, {}, [], {}), self._writer, {})
        else:
            self._ranks.log(moment.records, step, put)

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Time inside counts as logging; errors are the writer's affair, not training's."""
        try:
            with self._budget.spending():
                yield
        except SinkError:
            raise
        except Exception as error:
            self._writer._bad_values.report("fastlog.watch", error)
