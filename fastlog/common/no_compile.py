"""Keeps ``torch.compile`` out of functions that have an effect outside of the graph."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


def no_compile(function: Function) -> Function:
    """Like ``torch.compiler.disable``, but costs nothing at a call and does not import the compiler.

    A call in compiled code breaks the graph there, and neither the function nor what it calls is traced.
    """
    marks: Any = function
    marks._torchdynamo_disable = True
    marks._torchdynamo_disable_msg = "it writes to a log; torch.ops.fastlog.summarize works inside of a graph"
    frames: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    if hasattr(frames, "set_code_exec_strategy"):
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(marks.__code__, frames._FrameExecStrategy(skip, skip))
    elif hasattr(frames, "skip_code"):  # before torch 2.7
        frames.skip_code(marks.__code__)
    return function


def no_compile_methods(cls: Class) -> Class:
    """:func:`no_compile` for the public methods of a class; those that it inherits from other packages become
    copies."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            ours = method.__module__.partition(".")[0] == __name__.partition(".")[0]
            if not ours:
                method = _copy(method)
                setattr(cls, name, method)
            no_compile(method)
    return cls


def _copy(function: types.FunctionType) -> types.FunctionType:
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__ = function.__doc__
    copy.__qualname__ = function.__qualname__
    copy.__dict__.update(function.__dict__)
    return copy
