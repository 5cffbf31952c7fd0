"""fastlog.summarize: one tensor or many, the engine or the plain-torch reference; the same answers."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CONTENTS, DTYPES, assert_exact, assert_summary, assert_sums, exact_fields, random_tensor

import fastlog
from fastlog import TensorSummary
from fastlog.common.native import core
from fastlog.summaries import reference
from fastlog.summaries.engines import pack_many, pack_one
from fastlog.summaries.reference import summarize_reference
from fastlog.summaries.tensors import view_of


def mixed_tensors(count: int = 60) -> list[torch.Tensor]:
    """Every dtype in turn, of sizes from 0 to several chunks."""
    sizes = [0, 1, 17, 2048, 5000, 65536, 65537, 0, 140_000]
    return [
        random_tensor(DTYPES[i % len(DTYPES)], CONTENTS[i % len(CONTENTS)], sizes[i % len(sizes)], seed=i)
        for i in range(count)
    ]


def test_one_tensor_gives_one_summary():
    summary = fastlog.summarize(torch.tensor([1.0, 2.0]))
    assert isinstance(summary, TensorSummary)
    assert_summary(summary, [1.0, 2.0])


def test_many_tensors_give_a_list():
    tensors = mixed_tensors()
    summaries = fastlog.summarize(tensors)
    assert isinstance(summaries, list)
    for summary, tensor in zip(summaries, tensors, strict=True):
        assert_summary(summary, tensor)


def test_many_in_one_call_are_what_each_is_alone():
    tensors = mixed_tensors()
    assert pack_many(tensors) == [pack_one(tensor) for tensor in tensors]
    assert fastlog.summarize(tuple(tensors)) == [fastlog.summarize(tensor) for tensor in tensors]


def test_thousands_of_small_tensors():
    tensors = list(torch.arange(9000.0).split(3))
    for i, summary in enumerate(fastlog.summarize(tensors)):
        assert (summary.num, summary.min, summary.sum) == (3, 3.0 * i, 9.0 * i + 3)


def test_the_kinds_of_lists():
    tensor, array = torch.ones(2), np.zeros(3)
    assert [summary.num for summary in fastlog.summarize([tensor, array])] == [2, 3]
    assert [summary.num for summary in fastlog.summarize([tensor.sum(), tensor])] == [1, 2]
    assert fastlog.summarize([]) == fastlog.summarize(()) == []
    assert fastlog.summarize([1, 2]).num == 2
    assert fastlog.summarize([tensor[0], 2.0]).num == 2
    # What is logged under one tag is one summary, even as a list of tensors.
    assert TensorSummary.from_packed(pack_one([tensor, tensor])).num == 4
    assert TensorSummary.from_packed(pack_one([])).num == 0


def test_a_model():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(5, 5))
    model = model.to(torch.bfloat16, memory_format=torch.channels_last)
    parameters = list(model.parameters())
    for summary, parameter in zip(fastlog.summarize(parameters), parameters, strict=True):
        assert_summary(summary, parameter)


def test_names_in_errors():
    with pytest.raises(TypeError, match=r"^values: "):
        fastlog.summarize(torch.tensor([1j]))
    with pytest.raises(TypeError, match=r"^values\[2\]: "):
        fastlog.summarize([torch.ones(1), torch.ones(1), torch.tensor([1j])])
    with pytest.raises(TypeError, match=r"^layer\.bias: "):
        pack_many([torch.ones(1), torch.tensor([1j])], ["layer.weight", "layer.bias"])
    with pytest.raises(ValueError, match="shorter"):
        pack_many([torch.ones(1), torch.ones(1)], ["layer.weight"])


def test_a_summary_is_a_snapshot():
    tensor = torch.ones(1000)
    summary = fastlog.summarize(tensor)
    tensor.zero_()
    assert_summary(summary, np.ones(1000))


def test_the_engine_checks_what_it_is_given():
    for row in ((0, -1, 0, 0), (0, 0, 0, -1)):
        with pytest.raises(ValueError, match="negative"):
            core.summarize_one(*row, 1)
    for code in (-1, 18):
        with pytest.raises(ValueError, match="unknown dtype"):
            core.summarize([(0, 0, code, 0)], 1)
    assert core.summarize([], 1) == []


def assert_equals_engine(tensor: torch.Tensor) -> None:
    ours, engine = summarize_reference(tensor), fastlog.summarize(tensor)
    for name in exact_fields(np.empty(0)):
        assert np.array_equal(getattr(ours, name), getattr(engine, name), equal_nan=True), name
    assert_sums(ours, tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=10)
@given(
    content=st.sampled_from(CONTENTS),
    size=st.sampled_from([0, 1, 50, 5000, 70_000]),
    seed=st.integers(0, 2**32),
)
def test_reference_equals_engine(dtype, content, size, seed):
    assert_equals_engine(random_tensor(dtype, content, size, seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reference_adds_its_blocks_up(dtype, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 1000)
    assert_equals_engine(random_tensor(dtype, "zeros", 5500, seed=0).reshape(55, 100).t())


def test_reference_of_sums_whose_partial_sums_overflow():
    huge = torch.tensor([1e308, -1e308], dtype=torch.float64)
    for tensor in (huge.repeat(3000), huge.repeat_interleave(3000), huge[:1].repeat(5)):
        assert_equals_engine(tensor)


def test_reference_leaves_autograd_alone():
    tensor = torch.ones(5, requires_grad=True)
    summarize_reference(tensor)
    tensor.sum().backward()
    assert_exact(summarize_reference(torch.nn.Parameter(tensor)), tensor)


@pytest.mark.cuda
def test_device_tensors():
    for dtype in DTYPES:
        tensor = random_tensor(dtype, "bits", 5000, seed=0)
        for view in (tensor, tensor[::3], tensor.reshape(50, 100).t()):
            assert_summary(fastlog.summarize(view.cuda()), view)
    mixed = fastlog.summarize([tensor, tensor.cuda(), tensor[:7]])
    assert [summary.num for summary in mixed] == [5000, 5000, 7]


@pytest.mark.parametrize(
    "dtype",
    [np.int16, *(pytest.param(dtype, marks=pytest.mark.soak) for dtype in (np.float32, np.float64))],
)
def test_counts_beyond_32_bits(dtype):
    # Pages of a private mapping that nobody wrote to take no memory: they are all the one page of zeros.
    count = (1 << 32) + 7
    size = count * np.dtype(dtype).itemsize
    zeros = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    view = view_of(np.frombuffer(zeros, dtype))
    summary = TensorSummary.from_packed(core.summarize_one(*view[:4], 1))  # all by one thread's counters
    assert summary.num == summary.num_finite == summary.zeros == summary.counts[774] == count
    assert (summary.min, summary.max, summary.sum) == (0.0, 0.0, 0.0)
