# SPDX-License-Identifier: Apache-2.0
"""ArrayFile: arrays that wait in a temporary file, so that results of all layers need no memory."""

import mmap
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 64
_MAPPED_BYTES = 256 << 20  # a mapping holds a file descriptor, so many arrays share one


class ArrayFile:
    """A temporary file that goes when nobody refers to its arrays any more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (its arrays outlive this call)
        self._end = 0
        self._mapped: list[tuple[int, mmap.mmap]] = []  # where each begins

    def put(self, array: NDArray) -> "StoredArray":
        """Append an array."""
        offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._file.seek(offset)
        np.ascontiguousarray(array).tofile(self._file)
        self._file.flush()
        self._end = offset + array.nbytes
        return StoredArray(self, offset, array.shape, array.dtype)

    def fill(
        self, shape: tuple[int, ...], dtype: DTypeLike, write: Callable[[NDArray], None]
    ) -> "StoredArray":
        """Append an array that `write` fills in place: it is never in the process's own memory."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape))
        if not count:
            return self.put(np.empty(shape, kind))
        step = mmap.ALLOCATIONGRANULARITY
        offset = -(-self._end // step) * step
        self._end = offset + count * kind.itemsize
        self._file.truncate(max(self._file.seek(0, 2), self._end))
        mapped = mmap.mmap(self._file.fileno(), self._end - offset, offset=offset)
        write(np.frombuffer(mapped, kind, count).reshape(shape))
        return StoredArray(self, offset, shape, kind)

    def read(self, stored: "StoredArray") -> NDArray:
        """The array, mapped, read-only: its pages can be dropped at any time."""
        count = int(np.prod(stored.shape))
        if not count:
            return np.empty(stored.shape, stored.dtype)
        start, mapped = self._mapping(stored.offset, count * stored.dtype.itemsize)
        return np.frombuffer(mapped, stored.dtype, count, stored.offset - start).reshape(
            stored.shape
        )

    def _mapping(self, offset: int, num_bytes: int) -> tuple[int, mmap.mmap]:
        """A mapping that holds these bytes, and where it begins."""
        for start, mapped in self._mapped:
            if start <= offset and offset + num_bytes <= start + len(mapped):
                return start, mapped
        start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        length = max(_MAPPED_BYTES, offset + num_bytes - start)
        # the part that nothing is written to takes no space on the disk
        self._file.truncate(max(self._file.seek(0, 2), start + length))
        file = self._file.fileno()
        mapped = mmap.mmap(file, length, access=mmap.ACCESS_READ, offset=start)
        self._mapped.append((start, mapped))
        return start, mapped


@dataclass(frozen=True)
class StoredArray:
    """Where an array lies in its file."""

    file: ArrayFile
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> NDArray:
        """The array, mapped."""
        return self.file.read(self)
