"""The summaries of TensorBoard's HParams page, with torch.utils.tensorboard's additions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
import torch
from tensorboardX import summary as tbx
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fastlog.writer.tags import checked_tag, encodable, subdirectory

_LONGEST = 1000  # characters of a value that is shown as text

Plain: TypeAlias = bool | int | float | str


def check_dict(place: str, argument: str, given: Any) -> None:
    """Raises TypeError unless this is a dict whose keys are strings."""
    if not isinstance(given, dict):
        raise TypeError(f"{place}: {argument} must be a dict, not {type(given).__name__}")
    for key in given:
        checked_tag(key, place, f"a key of {argument}")


def check_as_torch(place: str, hparam_dict: Mapping[str, Any], metric_dict: Mapping[str, Any]) -> None:
    """Raises what torch raises for values that it cannot log; None is none of them.

    Raises:
        ValueError: a hyperparameter that is no number, string, bool or tensor.
        NotImplementedError: a metric that is no number, array or tensor.
    """
    for key, value in hparam_dict.items():
        if value is not None and not isinstance(value, (int, float, str, torch.Tensor, np.generic)):
            kinds = "int, float, str, bool, or torch.Tensor"
            raise ValueError(
                f"{place}: hparam_dict[{key!r}] should be one of {kinds}, not {type(value).__name__}"
            )
    for key, value in metric_dict.items():
        if value is not None and not isinstance(value, (torch.Tensor, np.ndarray)) and not np.isscalar(value):
            kinds = "a number, an array or a tensor"
            raise NotImplementedError(
                f"{place}: metric_dict[{key!r}] must be {kinds}, not {type(value).__name__}"
            )


def plain(value: Any) -> Plain | None:
    """The value as a bool, a number or a text, which TensorBoard and a YAML file can show; None stays None.

    A tensor or an array of one element is its element, a member of an Enum its value, a function or a class
    its name, anything else its text.
    """
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = _element(value)
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value)  # of this very type: YAML refuses subclasses
    if isinstance(value, int) and abs(value) <= sys.float_info.max:
        return int(value)
    text = encodable(str(value) if isinstance(value, str) else str(getattr(value, "__name__", value)))
    return text if len(text) <= _LONGEST or isinstance(value, str) else text[:_LONGEST] + "…"


def _element(value: Any) -> Any:
    """The one element of a tensor or an array; where there are several, or none, the whole."""
    try:
        flat = value.reshape(-1).tolist()
    except RuntimeError:  # a tensor without values: its text says so
        return value
    return flat[0] if len(flat) == 1 else value.tolist()


def summaries(
    hparams: Mapping[str, Plain | None], metrics: Iterable[str], domain_discrete: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Experiment, session start and session end, as tensorboardX writes them.

    Args:
        hparams: by name, made :func:`plain`; what is None is left out.
        metrics: the tags under which the metrics are logged.
        domain_discrete: all values that a hyperparameter may take, of the type of its value.

    Raises:
        TypeError: ``domain_discrete`` does not fit ``hparams``.
    """
    named = {encodable(key): value for key, value in hparams.items()}
    experiment, start, end = tbx.hparams(named, dict.fromkeys(metrics))
    if domain_discrete:
        plugin = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        infos = {info.name: info for info in content.experiment.hparam_infos}
        for key, values in domain_discrete.items():
            argument = f"hparam_domain_discrete[{key!r}]"
            allowed = [plain(value) for value in values] if isinstance(values, list) else [None]
            if key not in infos or not all(isinstance(value, type(hparams[key])) for value in allowed):
                raise TypeError(f"{argument} must be a list of the type of hparam_dict[{key!r}]")
            infos[key].domain_discrete.extend(allowed)
        plugin.content = content.SerializeToString()
    return experiment, start, end


def session_directory(logdir: str, home: str, name: str) -> str:
    """Where a session is written: ``name`` below ``logdir``, and never outside of it.

    Args:
        logdir: the directory of the main file.
        home: the log directory. An absolute ``name`` in it is a path, so that the log directory itself takes
            the session into the main file.
    """
    if os.path.isabs(name):
        below = os.path.relpath(os.path.realpath(name), os.path.realpath(home))
        if below.split(os.sep)[0] != os.pardir:
            name = below
    return subdirectory(logdir, name)
