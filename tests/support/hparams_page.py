"""TensorBoard's HParams page, as its own backend makes it from the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context


class Page(NamedTuple):
    """The columns in their order, and a row for each run: its hyperparameters and metrics."""

    hyperparameters: list[str]
    metrics: list[str]
    rows: dict[str, tuple[dict[str, Any], dict[str, float]]]


def hparams_page(logdir: Path) -> Page:
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    backend = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(logdir))))
    request = api_pb2.GetExperimentRequest()
    found = get_experiment.Handler(context.RequestContext(), backend, "", request).run()
    columns = json_format.MessageToDict(found)
    shown = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING]
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=100, allowed_statuses=shown)
    groups = list_session_groups.Handler(context.RequestContext(), backend, "", request).run()
    rows = {}
    for group in json_format.MessageToDict(groups).get("sessionGroups", []):
        metrics = {value["name"]["tag"]: value.get("value", 0.0) for value in group.get("metricValues", [])}
        rows[group["name"]] = (group["hparams"], metrics)
    return Page(
        [info["name"] for info in columns.get("hparamInfos", [])],
        [info["name"]["tag"] for info in columns.get("metricInfos", [])],
        rows,
    )
