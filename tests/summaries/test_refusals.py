"""What cannot be summarised is refused at once, with the argument's name and what to do instead."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import coo, quietly
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

import fastlog
from fastlog.summaries.engines import pack_one


class Wrapper(torch.Tensor):
    """Like DTensor and others: its own memory is not what it stands for."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def unwrap(x):
            return x.inner if isinstance(x, cls) else x

        return func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {}))


class Quantised(torch.nn.Parameter):
    __module__ = "bitsandbytes.nn.modules"


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(3)


def freed() -> torch.Tensor:
    tensor = torch.ones(5)
    tensor.untyped_storage().resize_(0)  # as FSDP does when it reshards
    return tensor


REFUSED = {
    "complex": (lambda: torch.tensor([1j]), ["complex", ".real", ".abs()"]),
    "complex scalar": (lambda: 1j, ["complex", ".real"]),
    "complex array": (lambda: np.array([1j]), ["complex", ".real", "np.abs()"]),
    "list with a complex tensor": (lambda: [1.0, torch.tensor(1j)], ["complex", ".real"]),
    "conjugate": (lambda: torch.tensor([1j]).conj(), ["complex", ".real"]),
    "sparse complex": (lambda: torch.tensor([1j]).to_sparse(), ["complex", ".real"]),
    "uncoalesced float8": (
        lambda: coo([[0, 0]], torch.ones(2).to(torch.float8_e5m2), (3,)),
        ["sparse_coo", "float8_e5m2", "dense"],
    ),
    "quantised": (
        lambda: quietly(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
        ["quantised", ".dequantize()"],
    ),
    "packed float4": (lambda: torch.empty(4, dtype=torch.float4_e2m1fn_x2), ["float4", "convert"]),
    "sub-byte integers": (lambda: torch.empty(4, dtype=torch.uint4), ["uint4", "convert"]),
    "raw bits": (lambda: torch.empty(4, dtype=torch.bits8), ["bits8", "convert"]),
    "bitsandbytes": (lambda: Quantised(torch.ones(3)), ["Quantised", "packed quantised", "dequantised"]),
    "meta": (lambda: torch.empty(3, device="meta"), ["meta", "materialise"]),
    "fake": (fake, ["FakeTensor", "plain tensor"]),
    "wrapper": (lambda: Wrapper(torch.ones(3)), ["Wrapper", "plain tensor", ".to_local()"]),
    "jagged": (
        lambda: quietly(lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged)),
        ["NestedTensor", ".values()"],
    ),
    "freed": (freed, ["freed", "gather"]),
    "None": (lambda: None, ["NoneType", "expected a tensor"]),
    "string": (lambda: "abc", ["str", "expected a tensor"]),
    "bytes": (lambda: b"abc", ["bytes", "expected a tensor"]),
    "strings": (lambda: ["a", "b"], ["expected numbers", "<U1"]),
    "list with None": (lambda: [1.0, None], ["objects", "expected a tensor"]),
    "objects": (lambda: np.array([object()]), ["objects", "expected a tensor"]),
    "dict": (lambda: {"a": 1.0}, ["dict", "expected a tensor"]),
    "generator": (lambda: (x for x in (1.0, 2.0)), ["generator", "expected a tensor"]),
    "ragged list": (lambda: [[1.0], [1.0, 2.0]], ["regular shape"]),
    "dates": (lambda: np.array(["2020-01-01"], "M8[D]"), ["expected numbers", "datetime64"]),
    "records": (lambda: np.zeros(3, "i4,f8"), ["expected numbers"]),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_name_and_the_remedy(make, words):
    with pytest.raises(TypeError) as error:
        pack_one(make(), "layer.weight")
    message = str(error.value)
    assert message.startswith("layer.weight: ")
    for word in words:
        assert word in message
    if not isinstance(make(), (list, tuple)):
        with pytest.raises(TypeError, match=r"^values\[1\]: |^values: "):
            fastlog.summarize([torch.ones(2), make()])


def test_refused_inside_a_function_transform():
    def loss(x: torch.Tensor) -> torch.Tensor:
        fastlog.summarize(x)
        return x.sum()

    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(TypeError, match=r"^values: .*memory"):
            transform(loss)(torch.ones(3, 2))


DTENSOR = """
import torch, torch.distributed as dist, fastlog
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
sharded = distribute_tensor(torch.arange(16.0).reshape(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)])
for tensor in (sharded, torch.nn.Parameter(sharded)):
    try:
        fastlog.summarize(tensor)
    except TypeError as error:
        print(error)
print(fastlog.summarize(sharded.to_local()).sum)
dist.destroy_process_group()
"""


def test_dtensor():
    result = subprocess.run([sys.executable, "-c", DTENSOR], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    first, second, total = result.stdout.splitlines()
    assert first == second
    assert first.startswith("values: ") and "DTensor" in first and ".to_local()" in first
    assert total == "120.0"
