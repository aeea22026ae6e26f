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
    Runtime maps the file. Smaller tensors of other files are read in. Equal bytes are written once:
    the branches of an If often have the same weights.
    """
    places: dict[int, list[int]] = {}  # bytes of a tensor → where such tensors begin
    listed = list(values)
    with path.open("w+b") as file:
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
            before = file.tell()
            offset = -(-before // step) * step
            file.write(b"\0" * (offset - before))
            _write(file, tensor)
            end, others = file.tell(), places.setdefault(tensor.nbytes, [])
            same = next((o for o in others if _is_same(file, o, offset, end - offset)), None)
            if same is not None:
                file.truncate(file.seek(before))
                offset, end = same, same + end - offset
            else:
                others.append(offset)
            value.const_value = ir.ExternalTensor(
                path.name,
                offset,
                end - offset,
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


def _is_same(file: BinaryIO, first: int, second: int, size: int) -> bool:
    """Whether the two parts of the file are equal; most differ in their first line."""
    file.flush()
    step, done = LINE, 0
    while done < size:
        step = min(step, size - done)
        if os.pread(file.fileno(), step, first + done) != os.pread(
            file.fileno(), step, second + done
        ):
            return False
        done, step = done + step, _PIECE_BYTES
    return True


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
