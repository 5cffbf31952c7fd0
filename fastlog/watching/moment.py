"""What is read at one logged step, and when."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from fastlog.distributed import shards
from fastlog.summaries.engines import refuse_captured
from fastlog.watching import reading, selection, series
from fastlog.watching.observers import Observers
from fastlog.watching.plan import Plan
from fastlog.watching.reading import Moment, Reading
from fastlog.watching.recorder import Recorder


class MomentReader:
    """Reads a model's tensors into moments.

    Args:
        optimizers: not kept alive.
    """

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], plan: Plan, recorder: Recorder
    ) -> None:
        self._model = model
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._plan = plan
        self._recorder = recorder
        self._weight_copies = reading.WeightCopies(plan.snapshot_bytes)
        self._is_known = False
        self.observers = Observers()

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that are still there."""
        return [optimizer for ref in self._optimizers if (optimizer := ref()) is not None]

    def open(self, step: int) -> Moment:
        """The weights are still those before the step."""
        if not self._is_known:
            shards.refuse_unknown(self._model)  # it may have been wrapped since
            self._is_known = True
        moment = Moment(step, self._parameters())
        refuse_captured(param for _, param in moment.params)
        self._recorder.look_at(param for _, param in moment.params)
        if series.UPDATES in self._plan.log:
            with self._recorder.guarded():
                self._weight_copies.take(moment.params, self._recorder.report)
        with self._recorder.guarded():
            self.observers.before_step(step, moment.params)
        return moment

    def read_gradients(self, moment: Moment, optimizer: Optimizer | None) -> None:
        """Those that the optimizer, or None: anybody, is about to use."""
        if series.GRADIENTS not in self._plan.log:
            return
        # A fused optimizer gets them scaled, and this beside them.
        params, scale = moment.params, getattr(optimizer, "grad_scale", None)
        if optimizer is not None and len(self._optimizers) > 1:
            params = reading.owned_by(params, optimizer)
        moment.is_scaled |= scale is not None
        found = reading.gradients(params)
        moment.found_gradients |= bool(found)
        moment.records += self._recorder.records(found, scale)

    def close(self, moment: Moment) -> None:
        """The step is over: reads all else."""
        with self._recorder.guarded():
            refuse_captured(param for _, param in moment.params)
            moment.records += self._recorder.records(self._readings_after(moment))
        self._weight_copies.drop()
        with self._recorder.guarded():
            moment.noted = self.observers.after_step(moment.step, moment.params, moment.read_for)

    def say_if_no_gradients(self, moment: Moment) -> None:
        """Warns where gradients are to be logged, and no parameter had one."""
        if series.GRADIENTS not in self._plan.log or not moment.params or moment.found_gradients:
            return
        elsewhere = any(getattr(param, "main_grad", None) is not None for _, param in moment.params)
        self._recorder.voice.say(
            "no gradients",
            f"no parameter had a gradient when step {moment.step} was logged: "
            + (
                "they are in main_grad, where watch does not look (Megatron, fused accumulation)"
                if elsewhere
                else "call backward() before the optimizer's step, and zero_grad() after it"
            ),
        )

    def forget(self) -> None:
        """Holds no tensor any more."""
        self._model, self._optimizers = nn.Module(), []
        self._weight_copies.drop()
        self.observers = Observers()

    def _parameters(self) -> reading.Named:
        params = selection.parameters(self._model, self._plan.names)
        if not self._plan.frozen:
            params = [(name, param) for name, param in params if param.requires_grad]
        if lazy := [name for name, param in params if is_lazy(param)]:
            self._recorder.voice.say(
                "lazy",
                f"{lazy[0]} belongs to a lazy module that has not run: it has no values, and is left out",
            )
            params = [(name, param) for name, param in params if not is_lazy(param)]
        return params

    def _readings_after(self, moment: Moment) -> list[Reading]:
        log, readings = self._plan.log, []
        if log & {series.WEIGHTS, series.UPDATES}:
            readings += reading.weights(moment.params)
        if series.UPDATES in log:
            readings += self._weight_copies.updates(self._recorder.report)
        if series.OPTIMIZER_STATE in log:
            state, left_out = reading.optimizer_state(moment.params, self.optimizers)
            readings += state
            if left_out:
                self._recorder.voice.say(
                    "codes", f"optimizer state in codes, as of {left_out[0]}, is left out"
                )
        return readings
