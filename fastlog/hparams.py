"""The summaries of TensorBoard's HParams page, with torch.utils.tensorboard's additions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensorboardX import summary as tbx
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fastlog.snapshots import as_float
from fastlog.tags import checked_tag


def summaries(
    hparam_dict: dict[str, Any], metric_dict: dict[str, Any], domain_discrete: dict[str, list[Any]]
) -> tuple[Any, Any, Any]:
    """Experiment, session start and session end, as tensorboardX writes them.

    Args:
        hparam_dict: values by name; a tensor or NumPy number of one element counts as a float.
        metric_dict: its keys are the names of the metrics.
        domain_discrete: all values that a hyperparameter may take, of the type of its value in
            ``hparam_dict``.

    Raises:
        TypeError: ``domain_discrete`` does not fit ``hparam_dict``.
    """
    metrics = {checked_tag(key, "a key of metric_dict"): value for key, value in metric_dict.items()}
    plain = {
        checked_tag(key, "a key of hparam_dict"): as_float(value, f"hparam_dict[{key!r}]")
        if isinstance(value, (torch.Tensor, np.number))
        else value
        for key, value in hparam_dict.items()
    }
    experiment, start, end = tbx.hparams(plain, metrics)
    if domain_discrete:
        plugin = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        infos = {info.name: info for info in content.experiment.hparam_infos}
        for key, values in domain_discrete.items():
            kind = type(hparam_dict.get(key))
            if (
                key not in infos
                or not isinstance(values, list)
                or not all(isinstance(v, kind) for v in values)
            ):
                raise TypeError(
                    f"hparam_domain_discrete[{key!r}] must be a list of the type of hparam_dict[{key!r}]"
                )
            infos[key].domain_discrete.extend(values)
        plugin.content = content.SerializeToString()
    return experiment, start, end
