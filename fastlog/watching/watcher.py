"""The hooks that find the moments of training at which a model is looked at."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fastlog.common.cards import card
from fastlog.common.no_compile import no_compile, no_compile_methods
from fastlog.watching import reading, selection, series
from fastlog.watching.activations import ActivationReader
from fastlog.watching.arguments import checked_number
from fastlog.watching.budget import Budget
from fastlog.watching.moment import MomentReader
from fastlog.watching.observers import Observer
from fastlog.watching.optimizer_step import is_nested, then_once
from fastlog.watching.pace import Pace
from fastlog.watching.plan import Plan
from fastlog.watching.ranks import Ranks
from fastlog.watching.reading import Moment
from fastlog.watching.recorder import Recorder
from fastlog.watching.steps import Steps
from fastlog.watching.watchdog import Watchdog
from fastlog.writer import SummaryWriter


@no_compile_methods
class Watcher:
    """Logs the tensors of a model at some of its training steps; made by ``fastlog.watch``.

    Also a context manager that removes itself at the end. Keeps neither the optimizers alive nor, once it is
    removed, the model. A copy watches nothing.
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
        self._writer = writer
        self._plan = plan
        self._budget = budget
        self._ranks = ranks
        self._recorder = Recorder(writer, budget, ranks)
        self._voice = self._recorder.voice
        self._reader = MomentReader(model, optimizers, plan, self._recorder)
        self._steps = Steps(budget, step_of, self._voice)
        self._name = type(selection.unwrap(model)).__name__
        self._count = len(optimizers)
        self._is_removed = False
        self._stepped: set[Optimizer] = set()
        self._inside: Optimizer | None = None  # the one whose step is going on, or has raised
        self._depth = 0
        self._moment: Moment | None = None
        self._activations: ActivationReader | None = None
        if kinds := plan.log & {series.ACTIVATIONS, series.ACTIVATION_GRADIENTS}:
            self._activations = ActivationReader(model, plan.names, plan.modules, kinds, self._recorder)
        self._pace: Pace | None = None
        self._watchdog = Watchdog(model, optimizers, self._steps, self._voice) if plan.log else None
        self._handles = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            )
        ]
        finish = weakref.WeakMethod(self._finish)
        self._forget_close = [writer.outbox.before_close(lambda: (now := finish()) and now())]
        if self._watchdog is not None:
            self._forget_close.append(writer.outbox.before_close(self._watchdog.sum_up))
        self._arm_for_first_step()

    def __repr__(self) -> str:
        state = "removed" if self._is_removed else f"every {self.every} steps"
        return f"<fastlog.watch of {self._name}, {state}, in {self._writer.logdir}>"

    def _repr_html_(self) -> str:
        """For notebooks: what is watched, how often, and where it is logged."""
        rows = {
            "logs": ", ".join(kind for kind in series.LOGGABLE if kind in self._plan.log) or "nothing",
            "every": "removed" if self._is_removed else f"{self.every} steps",
            "last logged step": self._steps.last if self._steps.last >= 0 else "none",
            "log directory": self._writer.logdir,
        }
        return card(f"fastlog.watch of {self._name}", rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return _removed, ()

    @property
    def every(self) -> int:
        """Steps from one logged step to the next; more than asked for where the budget says so."""
        return self._budget.every

    @property
    def is_over(self) -> bool:
        """Whether nothing comes any more: it is removed, or its optimizers are gone."""
        return self._is_removed or (self._count > 0 and not self._reader.optimizers)

    def step(self, number: int | None = None) -> None:
        """Without an optimizer: call it in each step when the gradients are final; logs them and the weights.

        With one: says which number the step in progress has, where the watcher should not count by itself.
        A number smaller than the last logged one starts anew.

        Raises:
            TypeError: the number is no whole one.
        """
        if number is not None:
            self._steps.set(checked_number("number", number))
        if self._is_removed:
            return
        if self._count and self._steps.due < 0:  # whether the hooks work is seen when they are called
            self._arm_for_first_step()
            return
        self._begin()
        if self._count:
            self._arm(by_demand=True)
            return
        self._see_steps()
        if self._steps.is_due:
            self._reader.observers.announce()
            with self._recorder.guarded():
                moment = self._open()
                if not moment.has_gradients:
                    self._reader.read_gradients(moment, None)
        self._end_round()

    def gradients(self) -> None:
        """Reads the gradients now, say before they are clipped, and not again when the optimizer steps.

        Gradients of a ``GradScaler`` are to be unscaled before.
        """
        if self._is_removed:
            return
        self._see_steps()
        self._begin()
        if self._steps.is_due:
            with self._recorder.guarded():
                moment = self._open()
                self._reader.read_gradients(moment, None)
                moment.has_gradients = True

    def log_next(self) -> None:
        """The next step is logged, whatever ``every`` says."""
        self._steps.hurry()
        self._arm(by_demand=True)

    def on_moment(self, observer: Observer) -> None:
        """From now on the observer sees each logged step, too."""
        self._reader.observers.add(observer)

    def hurry(self) -> None:
        """As ``log_next``, for any thread; nothing where ranks log together: all log the same steps."""
        if self._ranks is None:
            self._steps.hurry()

    def rank_scalars(self, **numbers: float) -> None:
        """Numbers of this rank, such as seconds of waiting for data: ``rank_scalars(data_wait=0.02)``.

        With the next logged step the last ones of all ranks are logged as ``fastlog/ranks/NAME/min``,
        ``median``, ``max`` and ``slowest_rank``, the rank of the largest. Where ranks do not log together:
        nothing.
        """
        if self._ranks is not None:
            self._ranks.note(numbers)

    def time_ranks(self, model: nn.Module) -> None:
        """As ``rank_scalars``, of the time that each rank takes before its forward passes."""
        if self._ranks is not None:
            self._pace = Pace(model, self._ranks.note)

    def remove(self) -> None:
        """Takes all hooks away; what has been read of an unfinished step is logged. Safe to call twice."""
        if self._is_removed:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._finish()
        self._forget_activations()
        self._activations = None
        self._reader.observers.end()
        if self._pace is not None:
            self._pace.end()
        if self._ranks is not None:
            self._ranks.end()
        if self._watchdog is not None:
            self._watchdog.end()
        for forget in self._forget_close:
            forget()
        self._forget_close.clear()
        self._stepped.clear()
        self._inside = None
        self._reader.forget()
        self._is_removed = True

    def follow(self, earlier: Watcher) -> None:
        """Takes the place of one that is removed, and counts on from its step."""
        self._steps.follow(earlier._steps)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    # The two hooks run at every step: what they do before they know that nothing is to be logged has to be
    # little.

    @no_compile
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._inside is optimizer and is_nested(optimizer):
            self._depth += 1
            return None
        self._inside, self._depth = optimizer, 0
        if self._stepped and optimizer in self._stepped:  # again, before the others have
            self._end_round()
        steps = self._steps
        if steps.asked is not None:
            steps.ask()
        if steps.last <= steps.number < steps.due:
            return None
        return self._look_before(optimizer, args, kwargs)

    @no_compile
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._depth:
            self._depth -= 1
            return
        self._inside = None
        if self._count > 1:
            self._stepped.add(optimizer)
            if len(self._stepped) < self._count:
                return
        self._end_round()

    def _end_round(self) -> None:
        if self._stepped:
            self._stepped.clear()
        if self._moment is not None:
            self._finish()
        steps = self._steps
        steps.number += 1
        if steps.number >= steps.due:
            self._arm()
            if self._pace is not None:
                self._pace.begin()

    def _look_before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        with self._recorder.guarded():
            self._see_steps()
            self._begin()
            if not self._steps.is_due:
                self._forget_activations()
                return None
        self._reader.observers.announce()
        with self._recorder.guarded():
            if self._moment is not None and optimizer in self._moment.read_for:
                self._moment = None  # its step raised
            moment = self._open()
            moment.read_for.add(optimizer)
            if moment.has_gradients or series.GRADIENTS not in self._plan.log:
                return None
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if closure is None:
                self._reader.read_gradients(moment, optimizer)
                return None

            def read() -> None:
                with self._recorder.guarded():
                    self._reader.read_gradients(moment, optimizer)

            closure = then_once(closure, read)  # which makes the gradients, inside of the step
            if len(args) > 1:
                return (args[0], closure, *args[2:]), kwargs
            return args, {**kwargs, "closure": closure}
        return None

    def _begin(self) -> None:
        """A step is in progress."""
        self._steps.begin(partial(reading.steps_taken, self._reader.optimizers))

    def _see_steps(self) -> None:
        if self._watchdog is not None:
            self._watchdog.step_seen()

    def _arm_for_first_step(self) -> None:
        with self._recorder.guarded():
            if self._steps.starts_due(partial(reading.steps_taken, self._reader.optimizers)):
                self._arm()

    def _arm(self, by_demand: bool = False) -> None:
        if self._activations is not None and self._steps.is_due:
            with self._recorder.guarded():
                self._activations.arm(by_demand)

    def _open(self) -> Moment:
        if self._moment is None:
            self._moment = self._reader.open(self._steps.number)
        return self._moment

    def _finish(self) -> None:
        """Logs what has been read of the step, if it is one to be logged."""
        moment, self._moment = self._moment, None
        if moment is None:
            return
        self._reader.close(moment)
        if self._activations is not None:
            moment.records += self._activations.seen
            self._activations.say_unseen(moment.step, is_sudden=self._steps.due == 0 < moment.step)
        if self._ranks is None:  # of one rank's shards all may be empty
            self._reader.say_if_no_gradients(moment)
        self._forget_activations()
        scalars = self._settle(moment.step)
        self._steps.logged(moment.step)
        with self._recorder.guarded():
            self._recorder.log(moment, scalars, self._plan.options, self._reader.observers)
        if self._reader.observers.want_next:
            self.hurry()

    def _settle(self, step: int) -> dict[str, float]:
        asked = self.every
        settled = self._budget.settle(step)
        if settled is None:
            return {}
        if settled.every > asked:
            self._voice.say(
                "budget",
                f"logging every {asked} steps took {settled.overhead:.1%} of the time; now every "
                f"{settled.every}, to stay within {self._budget.share:.1%}. Raise budget= for more points, or"
                " log less: histograms=False, top_k=, include= (see fastlog/every)",
            )
        return {"fastlog/overhead": settled.overhead, "fastlog/every": float(settled.every)}

    def _forget_activations(self) -> None:
        if self._activations is not None:
            self._activations.disarm()


def _removed() -> Watcher:
    """What a copy of a watcher is."""
    nothing = Plan(
        frozenset(), selection.Names(None, None), None, False, 0, series.SeriesOptions(False, (), ())
    )
    writer = SummaryWriter("", write_to_disk=False)
    watcher = Watcher(nn.Module(), writer, [], nothing, Budget(1, 0, None, time.perf_counter), None)
    watcher.remove()
    return watcher
