"""The methods that describe TensorBoard's own pages: hyperparameters, custom charts, a model's graph."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from time import time
from typing import Any

import torch
from tensorboardX import summary as tbx

from fastlog.common.notices import SinkError
from fastlog.writer.bad_values import at_place
from fastlog.writer.base import WriterBase
from fastlog.writer.encode import hparams, layouts
from fastlog.writer.encode.scalars import scalar_item
from fastlog.writer.file_writer import FileWriter, NullFileWriter
from fastlog.writer.tags import checked_tag


class PageMethods(WriterBase):
    """Names that a page shows are those under which the values are logged."""

    def add_hparams(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        name: Any = None,
        global_step: Any = None,
        *torch_step: Any,
        hparam_domain_discrete: dict[str, list[Any]] | None = None,
        run_name: str | None = None,
    ) -> None:
        """Logs a set of hyperparameters and what came of them, as a run in the sub-directory ``name``.

        torch.utils.tensorboard's order, (hparam_dict, metric_dict, hparam_domain_discrete, run_name,
        global_step), is understood too.

        Args:
            hparam_dict: values by name: bools, numbers (or a tensor of one element) and strings as they are,
                a function's name, the text of anything else. None is left out, with a warning.
            metric_dict: number by name, logged as by ``add_scalar``.
            name, run_name: name of the sub-directory; default the time. An absolute path has to be in the log
                directory; the log directory itself takes the session into the main file.
            global_step: step of the metrics.
            hparam_domain_discrete: all values that a hyperparameter may take, by name.

        Raises:
            TypeError: ``hparam_dict`` or ``metric_dict`` is no dict, or has a key that is no string.
        """
        if isinstance(name, dict):
            name, hparam_domain_discrete = None, name
        if isinstance(global_step, str):
            global_step, run_name = None, global_step
        if torch_step:
            (global_step,) = torch_step
        session = checked_tag("" if name is None else name, "add_hparams", "name")
        session = checked_tag(session if run_name is None else run_name, "add_hparams", "run_name")
        session = session or str(time())
        domain = {} if hparam_domain_discrete is None else hparam_domain_discrete
        place = f"add_hparams({session!r})"
        for argument, given in (
            ("hparam_dict", hparam_dict),
            ("metric_dict", metric_dict),
            ("hparam_domain_discrete", domain),
        ):
            hparams.check_dict(place, argument, given)
        if self._as_torch:
            hparams.check_as_torch(place, hparam_dict, metric_dict)
        opened = self._open_session(place, session, hparam_dict, list(metric_dict), domain, global_step)
        if opened is None:
            return
        writer, step, wall_time = opened
        for key, value in metric_dict.items():
            argument = f"metric_dict[{key!r}]"
            place = f"add_hparams({session!r}, {argument})"
            with self.outbox.guarded(place):
                tag = self._name(key, "add_hparams", "a key of metric_dict")
                writer.put(*scalar_item(argument, tag, value, step, wall_time, place))
        if writer is not self.file_writer:
            writer.retire()
            (self.all_writers or {}).pop(writer.get_logdir(), None)
        if self._comet_on:
            self._get_comet_logger().log_parameters(hparam_dict, step=global_step)

    def _open_session(
        self,
        place: str,
        session: str,
        hparam_dict: dict[str, Any],
        metrics: list[str],
        domain: dict[str, list[Any]],
        global_step: Any,
    ) -> tuple[FileWriter | NullFileWriter, int | None, float] | None:
        """Logs what describes a session. The writer, the step and the wall time of its metrics; None where
        nothing can be logged."""
        with self.outbox.guarded(place):
            main = self.outbox.main()
            step, wall_time = self.outbox.stamp(place, global_step, None)
            values = {key: hparams.plain(value) for key, value in hparam_dict.items()}
            tags = [self._name(key, "add_hparams", "a key of metric_dict") for key in metrics]
            summaries = hparams.summaries(values, tags, domain)
            path = hparams.session_directory(str(main.get_logdir()), str(self.logdir), session)
            missing = [key for key, value in values.items() if value is None]
            self._warn_of_session(place, session, path, missing)
            writer = self.outbox.beside(path)
            for summary in summaries:
                writer.add_summary(summary, step if self._as_torch else None, wall_time)
            return writer, step, wall_time
        return None

    def _warn_of_session(self, place: str, session: str, path: str, missing: list[str]) -> None:
        tell = self.outbox.bad_values.tell
        if missing:
            names = ", ".join(map(repr, missing))
            tell(
                f"add_hparams without {names}",
                f"{place}: hparam_dict has None for {names}: left out; pass str(None) to see it"
                " (this warning is shown once)",
            )
        if os.path.isabs(session) and os.path.realpath(path) != os.path.realpath(session):
            tell(
                f"{place} path",
                f"{place}: the path is outside of the log directory; the run is written to {path!r}",
            )

    def add_graph(
        self, model: Any, input_to_model: Any = None, verbose: bool = False, use_strict_trace: bool = True
    ) -> None:
        """Logs the graph of a model, as ``torch.jit.trace`` sees it. Needs TensorBoard.

        Args:
            model: a ``torch.nn.Module``.
            input_to_model: what the model is called with: a tensor, or a tuple of them.
            verbose: also print the graph.
            use_strict_trace: False where the model returns a dict or a list.

        Raises:
            TypeError: ``model`` is no module, or there is no input.
            RuntimeError, or what the model raises: it cannot be traced with this input.
        """
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"add_graph: model must be a torch.nn.Module, not {type(model).__name__}")
        if input_to_model is None:
            raise TypeError(
                "add_graph: input_to_model is None; pass what the model is called with, a tensor or a tuple"
            )
        try:
            with warnings.catch_warnings():  # nothing that the caller could mend
                warnings.filterwarnings("ignore", r"`torch\.jit\.trace(_method)?` is deprecated")
                super().add_graph(model, input_to_model, verbose, use_strict_trace)
        except SinkError:
            raise
        except Exception as error:
            raise at_place("add_graph(model, input_to_model)", error) from None

    def add_custom_scalars(self, layout: dict[str, dict[str, Sequence[Any]]]) -> None:
        """Logs which scalars the Custom Scalars page shows together. One layout for each run.

        Args:
            layout: {category: {title: [kind, tags]}}. Of the kind "Multiline" the tags are names or regular
                expressions of series; of the kind "Margin" the three names of value, lower and upper bound.
        """
        place = "add_custom_scalars"
        with self.outbox.guarded(place):
            checked = layouts.checked(layout, functools.partial(self._name, method=place))
            self.outbox.main().add_summary(tbx.custom_scalars(checked))

    def add_custom_scalars_multilinechart(
        self, tags: list[str], category: str = "default", title: str = "untitled"
    ) -> None:
        """Logs a layout of one chart with several lines; see ``add_custom_scalars``."""
        self.add_custom_scalars({category: {title: ["Multiline", tags]}})

    def add_custom_scalars_marginchart(
        self, tags: list[str], category: str = "default", title: str = "untitled"
    ) -> None:
        """Logs a layout of one chart with a margin; see ``add_custom_scalars``."""
        self.add_custom_scalars({category: {title: ["Margin", tags]}})

    def add_onnx_graph(self, onnx_model_file: Any = None, *, prototxt: Any = None) -> None:
        """Logs the graph of an ONNX file; ``prototxt`` is torch.utils.tensorboard's name of the argument."""
        file = prototxt if onnx_model_file is None else onnx_model_file
        if file is None:
            raise TypeError("add_onnx_graph: onnx_model_file is None; pass the path of an ONNX file")
        super().add_onnx_graph(file)
