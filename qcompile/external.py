# SPDX-License-Identifier: Apache-2.0
"""Writing large initializers to a file of external data, in pieces."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

PAGE, LINE = 4096, 64  # offsets of tensors of at least 64 KiB, and of smaller ones
LARGE_BYTES = 64 << 10
_PIECE_BYTES = 8 << 20
Watch = Callable[[str, int, int], None]  # ("tensors", written, of all)


def move_outside(
    values: Iterable[ir.Value], path: Path, inline_bytes: int, watch: Watch | None = None
) -> None:
    """The initializers above `inline_bytes` become external tensors in a new file.

    One is in memory at a time. Offsets are multiples of a page for large tensors, so that ONNX
    Runtime maps the file. Smaller tensors of other files are read in.
    """
    listed = list(values)
    with path.open("wb") as file:
        for number, value in enumerate(listed):
            if watch is not None:
                watch("tensors", number + 1, len(listed))
            tensor = value.const_value
            if tensor is None:
                continue
            if tensor.nbytes <= inline_bytes:
                if isinstance(tensor, ir.ExternalTensor):  # its file is the user's
                    value.const_value = ir.tensor(tensor.numpy(), name=value.name)
                continue
            step = PAGE if tensor.nbytes >= LARGE_BYTES else LINE
            offset = -(-file.tell() // step) * step
            file.write(b"\0" * (offset - file.tell()))
            _write(file, tensor)
            value.const_value = ir.ExternalTensor(
                path.name,
                offset,
                file.tell() - offset,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
                base_dir=path.parent,
            )
            release = getattr(tensor, "release", None)
            if release is not None:
                release()
        file.flush()
        os.fsync(file.fileno())


def _write(file: BinaryIO, tensor: ir.TensorProtocol) -> None:
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(file)
        return
    if tensor.dtype.bitwidth < 8:
        file.write(tensor.tobytes())
        return
    array = tensor.numpy()
    if not array.shape:
        array = array.reshape(1)
    rows = max(1, _PIECE_BYTES // max(array.nbytes // len(array), 1)) if len(array) else 1
    for first in range(0, len(array), rows):
        part = np.ascontiguousarray(array[first : first + rows])  # a transposed view is no copy yet
        file.write(part.reshape(-1).view(np.uint8).data)
