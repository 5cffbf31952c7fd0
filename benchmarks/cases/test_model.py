"""All tensors of a model in one call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from contenders import TENSORBOARDX, TORCH_TENSORBOARD
from finetune_bert import PACKAGED_MODEL, model_path
from inputs import Input
from race import Entrant, Race
from transformers import AutoModel

import fastlog

pytestmark = pytest.mark.benchmark(group="a model in one call")


@pytest.fixture(scope="module")
def tensors() -> list[torch.Tensor]:
    """The weights of the packaged BERT: 103 tensors, 22.7 M values."""
    return [param.detach() for param in AutoModel.from_pretrained(model_path(PACKAGED_MODEL)).parameters()]


def test_beside_one_tensor_of_that_size(race: Race, tensors: list[torch.Tensor]) -> None:
    together = torch.cat([tensor.flatten() for tensor in tensors])
    summaries = fastlog.summarize(tensors)
    for tensor, summary in zip(tensors, summaries, strict=True):
        np.testing.assert_array_equal(summary.counts, Input(tensor, tensor, 1).expected())
    assert sum(summary.num for summary in summaries) == together.numel()
    race(
        Entrant(lambda: fastlog.summarize(tensors)),
        {"fastlog, one tensor of the same size": Entrant(lambda: fastlog.summarize(together))},
        seconds=4.0,
    )
    race.note(case=f"{len(tensors)} tensors, {together.numel() / 1e6:.1f} M float32")
    race.target(
        f"{len(tensors)} tensors of a BERT in one `summarize` call",
        race.ratio("fastlog", to="fastlog, one tensor of the same size"),
        "x the time of one tensor",
        at_most=1.3,
    )


@pytest.mark.large
def test_beside_others(race: Race, tensors: list[torch.Tensor]) -> None:
    def each(count: Callable[[torch.Tensor], object]) -> Entrant:
        return Entrant(lambda: [count(tensor) for tensor in tensors])

    for summary, tensor in zip(fastlog.summarize(tensors), tensors, strict=True):
        expected = TENSORBOARDX.counts(TENSORBOARDX.run(tensor))
        np.testing.assert_array_equal(summary.counts, expected)
    race(
        Entrant(lambda: fastlog.summarize(tensors)),
        {counter.name: each(counter.run) for counter in (TENSORBOARDX, TORCH_TENSORBOARD)},
        rounds=3,
    )
    race.note(case=f"{len(tensors)} tensors, one by one where the library knows no other way")
