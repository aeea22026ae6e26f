# SPDX-License-Identifier: Apache-2.0
"""Arrays come back from the file as they went in, many of them from few mappings."""

import os

import numpy as np

from qcompile.passes.transform import array_file
from qcompile.passes.transform.array_file import ArrayFile


def test_arrays_come_back(monkeypatch) -> None:
    monkeypatch.setattr(array_file, "_MAPPED_BYTES", 8192)
    rng, file = np.random.default_rng(0), ArrayFile()
    arrays = [
        rng.integers(-100, 100, (i, 7), np.int16) if i % 2 else rng.standard_normal((i, 3, 33))
        for i in range(40)
    ]
    stored = []
    for array in arrays:
        stored.append(file.put(array))
        assert np.array_equal(stored[-1].read(), array)  # while the file still grows
    for array, each in zip(arrays, stored, strict=True):
        assert np.array_equal(each.read(), array)
        assert each.read().dtype == array.dtype


def test_arrays_outlive_their_file_and_share_its_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd"))
    file = ArrayFile()
    found = [file.put(np.full(5, i)).read() for i in range(500)]
    del file
    assert [int(f[0]) for f in found] == list(range(500))
    assert len(os.listdir("/proc/self/fd")) - before <= 2
