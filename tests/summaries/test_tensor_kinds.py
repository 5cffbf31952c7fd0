"""Everything that can be summarised, in whatever layout it comes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import DTYPES, assert_exact, assert_summary, coo, quietly, random_tensor

import fastlog
from fastlog.summaries.engines import pack_one
from fastlog.summaries.tensors import View, view_of


def values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


DENSE = {
    "contiguous": lambda: values(4, 5, 6),
    "transposed": lambda: values(40, 50).t(),
    "permuted": lambda: values(4, 5, 6, 7).permute(2, 0, 3, 1),
    "channels_last": lambda: values(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda: values(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "channels_last of one channel": lambda: values(2, 1, 4, 5).to(memory_format=torch.channels_last),
    "contiguous slice": lambda: values(10, 7)[3:8],
    "slice of a transposed one": lambda: values(10, 7).t()[:, 2:5],
    "0-d": lambda: values(1)[0],
    "leaf that requires grad": lambda: values(5, 5).requires_grad_(),
    "with a history": lambda: values(5, 5).requires_grad_() * 2,
    "parameter": lambda: torch.nn.Parameter(values(5, 5)),
    "frozen parameter": lambda: torch.nn.Parameter(values(5, 5), requires_grad=False),
    "buffer": lambda: torch.nn.Buffer(values(5)),
    "of inference mode": lambda: torch.inference_mode()(lambda: values(5, 5))(),
    "odd storage offset": lambda: values(101)[1:],
    "viewed as real": lambda: torch.view_as_real(torch.complex(values(7), values(7))),
}
COPIED = {
    "strided slice": lambda: values(100)[::3],
    "column": lambda: values(10, 7)[:, 3],
    "inner block": lambda: values(10, 7)[2:5, 1:4],
    "expanded": lambda: values(5, 1).expand(5, 1000),
    "expanded from 0-d": lambda: torch.tensor(2.5).expand(3, 4),
    "diagonal": lambda: values(9, 9).diagonal(),
    "unfolded, overlapping": lambda: values(20).unfold(0, 5, 2),
    "as_strided": lambda: values(30).as_strided((3, 4), (9, 2)),
    "real": lambda: torch.complex(values(7), values(7)).real,
    "imag": lambda: torch.complex(values(7), values(7)).imag,
    "expanded parameter": lambda: torch.nn.Parameter(values(1)).expand(7),
}
EMPTY = {
    "empty": lambda: torch.empty(0),
    "empty with dimensions": lambda: torch.empty(3, 0, 5),
    "empty slice": lambda: values(5)[5:],
    "empty strided": lambda: torch.empty(4, 0).t()[:, ::2],
}
NEGATIVE = {
    "_neg_view": lambda: torch._neg_view(values(50)),
    "_neg_view, strided": lambda: torch._neg_view(values(50))[::2],
    "_neg_view of integers": lambda: torch._neg_view(torch.arange(-5, 50)),
    "imag of a conjugate": lambda: torch.complex(values(50), values(50)).conj().imag,
    "imag of a conjugate, transposed": lambda: torch.complex(values(5, 6), values(5, 6)).conj().imag.t(),
    "parameter": lambda: torch.nn.Parameter(torch._neg_view(values(50))),
    "with grad": lambda: torch.complex(values(50), values(50)).requires_grad_().conj().imag,
}


@pytest.mark.parametrize("make", DENSE.values(), ids=DENSE)
def test_dense_layouts_are_read_in_place(make):
    tensor = make()
    assert_summary(fastlog.summarize(tensor), tensor)
    view = view_of(tensor)
    assert isinstance(view, View)
    assert view.address == tensor.data_ptr()
    assert view.count == tensor.numel()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_dtype_is_copied(dtype):
    tensor = random_tensor(dtype, "bits", 60, seed=1).reshape(3, 4, 5).permute(2, 0, 1)
    assert view_of(tensor).address == tensor.data_ptr()
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("make", COPIED.values(), ids=COPIED)
def test_other_layouts(make):
    tensor = make()
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY)
def test_empty(make):
    summary = fastlog.summarize(make())
    assert_summary(summary, np.empty(0))
    assert summary.num == 0 and np.isnan(summary.min) and summary.sum == 0.0


@pytest.mark.parametrize("make", NEGATIVE.values(), ids=NEGATIVE)
def test_negative_bit(make):
    tensor = make()
    assert tensor.is_neg()
    assert_summary(fastlog.summarize(tensor), tensor)
    assert tensor.is_neg(), "the caller's tensor is left alone"


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_alignment(dtype, offset):
    tensor = random_tensor(dtype, "bits", 300, seed=2)[offset:]
    assert_exact(fastlog.summarize(tensor), tensor)


def test_autograd_sees_nothing():
    tensor = values(5, 5).requires_grad_()
    version = tensor._version
    fastlog.summarize([tensor, tensor.t(), tensor[:, ::2]])
    assert tensor._version == version and tensor.grad is None
    tensor.square().sum().backward()


def test_zeros_without_memory():
    # What forward-mode AD makes for a missing tangent: a tensor that says it is zero and has no memory.
    for tensor in (torch._efficientzerotensor((4, 5)), torch._efficientzerotensor((4, 5)).t()):
        assert tensor._is_zerotensor()
        assert_summary(fastlog.summarize(tensor), np.zeros(20))


SPARSE_DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
SPARSE = {
    "COO": lambda dense: dense.to_sparse(),
    "COO, one sparse dimension": lambda dense: dense.to_sparse(1),
    "COO, transposed": lambda dense: dense.to_sparse().t(),
    "CSR": lambda dense: dense.to_sparse_csr(),
    "CSC": lambda dense: dense.to_sparse_csc(),
    "BSR": lambda dense: dense.to_sparse_bsr((2, 3)),
    "BSC": lambda dense: dense.to_sparse_bsc((2, 3)),
}


def sparse_values(dtype: torch.dtype) -> torch.Tensor:
    dense = (values(8, 9) * 10).abs().to(dtype)
    dense[values(8, 9) < 0.3] = 0
    return dense


@pytest.mark.parametrize("dtype", SPARSE_DTYPES, ids=str)
@pytest.mark.parametrize("to_sparse", SPARSE.values(), ids=SPARSE)
def test_sparse_with_its_implicit_zeros(to_sparse, dtype):
    dense = sparse_values(dtype)
    sparse = quietly(lambda: to_sparse(dense))
    assert sparse.layout is not torch.strided
    summary = fastlog.summarize(sparse)
    assert_summary(summary, dense)
    assert summary.num == 72


@pytest.mark.parametrize("dtype", SPARSE_DTYPES, ids=str)
def test_uncoalesced_entries_add_up(dtype):
    sparse = coo([[0, 0, 1, 5, 5], [1, 1, 2, 0, 0]], torch.tensor([1, 2, 3, 0, 1]).to(dtype), (6, 4))
    assert not sparse.is_coalesced()
    assert_summary(fastlog.summarize(sparse), sparse.to_dense())
    assert not sparse.is_coalesced()


def test_sparse_corner_cases():
    def check(sparse: torch.Tensor, dense: torch.Tensor) -> None:
        assert_summary(fastlog.summarize(sparse), dense)

    check(torch.zeros(3, 4).to_sparse(), torch.zeros(3, 4))
    check(torch.full((3, 4), -2.5).to_sparse(), torch.full((3, 4), -2.5))
    check(torch.full((3, 4), np.nan).to_sparse(), torch.full((3, 4), np.nan))
    check(values(3, 4).to_sparse().requires_grad_(), values(3, 4))
    check(torch.nn.Parameter(values(3, 4).to_sparse()), values(3, 4))
    check(coo([[]], torch.empty(0), (0,)), torch.empty(0))
    check(values(4, 3).to_mkldnn(), values(4, 3))
    batched = torch.stack([torch.eye(4), 2 * torch.eye(4)])
    check(quietly(batched.to_sparse_csr), batched)


def test_sparse_gradient_of_an_embedding():
    embedding = torch.nn.Embedding(100, 8, sparse=True)
    embedding(torch.tensor([3, 3, 7])).sum().backward()
    assert embedding.weight.grad.layout is torch.sparse_coo
    assert_summary(fastlog.summarize(embedding.weight.grad), embedding.weight.grad.to_dense())


def test_more_implicit_zeros_than_memory():
    summary = fastlog.summarize(coo([[5], [7]], torch.tensor([2.0]), (1 << 31, 1 << 20)))
    assert summary.num == summary.num_finite == 1 << 51
    assert summary.zeros == (1 << 51) - 1
    assert (summary.min, summary.max, summary.sum) == (0.0, 2.0, 2.0)


class Named(torch.Tensor):
    """A subclass that only adds methods, as many libraries have."""


class Meddling(torch.Tensor):
    """A subclass with plain data that lets no torch function be called on it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called")


def test_subclasses_with_plain_data():
    plain = values(50)
    for kind in (Named, Meddling):
        assert_summary(fastlog.summarize(plain.as_subclass(kind)), plain)
    assert_summary(fastlog.summarize(torch.nn.Parameter(plain.as_subclass(Named))), plain)


ARRAYS = {
    "float64": lambda: np.linspace(-3, 3, 101),
    "float16": lambda: np.linspace(-3, 3, 101).astype(np.float16),
    "longdouble": lambda: np.linspace(-3, 3, 101).astype(np.longdouble),
    "longdouble beyond float64": lambda: np.array([1, -1], np.longdouble) * np.longdouble(10) ** 400,
    "bool": lambda: np.arange(101) % 3 == 0,
    "uint64": lambda: np.array([0, 1, 2**63, 2**64 - 1], np.uint64),
    "big-endian float32": lambda: np.linspace(-3, 3, 101).astype(">f4"),
    "big-endian float16": lambda: np.linspace(-3, 3, 101).astype(">f2"),
    "big-endian int64": lambda: np.arange(-5, 50).astype(">i8"),
    "strided": lambda: np.linspace(-3, 3, 101)[::3],
    "reversed": lambda: np.linspace(-3, 3, 101)[::-1],
    "Fortran": lambda: np.asfortranarray(np.linspace(-3, 3, 100).reshape(10, 10)),
    "transposed": lambda: np.linspace(-3, 3, 100).reshape(5, 20).T,
    "broadcast": lambda: np.broadcast_to(np.float32(1.5), (100, 3)),
    "0-d": lambda: np.array(2.5),
    "scalar": lambda: np.float32(2.5),
    "empty": lambda: np.empty((3, 0)),
    "misaligned": lambda: np.frombuffer(b"x" + np.arange(9.0).tobytes(), np.uint8)[1:].view(np.float64),
    "field of records": lambda: np.array([(1, 2.5), (3, 4.5)], "i1,f8")["f1"],
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_arrays(make):
    array = make()
    assert_summary(fastlog.summarize(array), array)


def test_contiguous_arrays_are_read_in_place():
    square = np.arange(9.0).reshape(3, 3)
    for array in (np.arange(6.0), square, square.T, np.asfortranarray(square), square[1:]):
        assert view_of(array).address == array.ctypes.data


def test_read_only_array(tmp_path):
    np.arange(100.0).tofile(tmp_path / "values")
    array = np.memmap(tmp_path / "values", np.float64, mode="r")
    assert not array.flags.writeable
    assert_summary(fastlog.summarize(array), np.arange(100.0))


@pytest.mark.parametrize("mask", [False, True, [0, 1, 0, 1]])
def test_masked_values_do_not_count(mask):
    array = np.ma.array([1.0, 2.0, -3.0, 1e9], mask=mask)
    kept = np.asarray(array.data)[~np.ma.getmaskarray(array)]
    assert_summary(fastlog.summarize(array), kept)


@pytest.mark.parametrize("values", [[1.0, np.ma.masked], [[1.0], [np.ma.array([2.0], mask=True)]]])
def test_masked_values_in_a_list_of_numbers_are_refused(values):
    with pytest.raises(ValueError, match=r"^values: a list with masked elements.*np\.ma\.stack"):
        fastlog.summarize(values)


LISTS = {
    "floats": lambda: [1.0, -2.5, 1e25, float("nan"), float("inf")],
    "nested": lambda: [[1, 2], [3, 4]],
    "tuple": lambda: (1.5, 2.5),
    "booleans": lambda: [True, False, True],
    "large integers": lambda: [2**63, 1],
    "NumPy scalars": lambda: [np.float32(1.5), np.int8(-3)],
    "number": lambda: 2.5,
    "integer": lambda: -3,
    "boolean": lambda: True,
    "range": lambda: range(5),
}


@pytest.mark.parametrize("make", LISTS.values(), ids=LISTS)
def test_lists_and_numbers(make):
    assert_summary(fastlog.summarize(make()), make())


def test_lists_that_contain_tensors():
    half, leaf = torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(2.0, requires_grad=True)
    assert_summary(fastlog.summarize([1.0, half, leaf]), [1.0, 0.5, 2.0])
    assert_summary(fastlog.summarize([[leaf, half], [half, 3]]), [2.0, 0.5, 0.5, 3.0])
    together = fastlog.TensorSummary.from_packed(pack_one([half, leaf, torch.eye(3).to_sparse()[0, 0]]))
    assert_summary(together, [0.5, 2.0, 1.0])


def test_objects_with_an_array_interface():
    class Array:
        def __array__(self, dtype=None, copy=None):
            return np.arange(5.0)

    assert_summary(fastlog.summarize(Array()), np.arange(5.0))


@pytest.mark.parametrize("size", [300, 200_000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_flush_denormal_mode(dtype, size):
    tiny = torch.finfo(dtype).tiny
    tensor = (torch.arange(size) % 7 - 3).to(torch.float64).mul(tiny / 4).to(dtype)
    tensor[::5] = 1.0
    ordinary = pack_one(tensor)
    assert_summary(fastlog.summarize(tensor), tensor)
    if not torch.set_flush_denormal(True):
        pytest.fail("this CPU has no flush-denormal mode")
    try:
        flushed = pack_one(tensor)
        still_flushing = bool(torch.tensor(5e-324, dtype=torch.float64) * 1.0 == 0.0)
    finally:
        torch.set_flush_denormal(False)
    assert flushed == ordinary
    assert still_flushing, "the caller's mode is given back"
    assert fastlog.TensorSummary.from_packed(flushed).below_fp16 > 0
