# SPDX-License-Identifier: Apache-2.0
"""Small parts that every CUDA kernel is written with: parameters, guards, runs of words."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T


def parameter(name: str, shape: tuple[int, ...], kind: str = "int32") -> Any:
    """A buffer argument, row-major."""
    return T.arg(name, T.buffer(shape, kind))


def flat(buffer: Any) -> Any:
    """The same memory with one axis, and the same name: the emulator knows buffers by it."""
    size = math.prod(int(extent) for extent in buffer.shape)
    return IRBuilder.name(buffer.name, T.decl_buffer((size,), buffer.dtype, data=buffer.data))


def barrier() -> None:
    """All threads of a block wait for each other."""
    T.evaluate(T.tvm_storage_sync("shared"))


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """An if without else; none at all where the condition is known."""
    if condition is True:
        yield
        return
    with T.If(condition), T.Then():
        yield


def run(start: Any, length: int) -> Any:
    """The index of `length` adjacent words; start is a multiple of it."""
    return start if length == 1 else T.ramp(start, 1, length)


def function(name: str, emit: Callable[[], None]) -> Any:
    """The function that emit writes: its parameters first, then its launch."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        emit()
    return builder.get()


def threads_over(count: int, threads: int, emit: Callable[[Any], None]) -> None:
    """One thread an item: emit(item) for item 0 … count − 1."""
    with (
        T.launch_thread("blockIdx.x", -(-count // threads)) as block,
        T.launch_thread("threadIdx.x", threads) as thread,
        when(True if count % threads == 0 else block * threads + thread < count),
    ):
        emit(block * threads + thread)
