# SPDX-License-Identifier: Apache-2.0
"""Codes are the same whether they stay in memory or wait in a file."""

import mmap

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.memory import Budget
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec


def store(num_bytes: int, spec: str, shape: tuple[int, int]) -> CodeStore:
    """A store that keeps so many bytes of codes in memory, with a weight "w"."""
    work = Work(Plan("w8a8", "cpu", {}), Stats(), Recipe(), Budget(16 * num_bytes))
    found = CodeStore(work)
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found.add("w", ir.tensor(weight), QuantSpec.parse(spec))
    return found


def is_mapped(array: np.ndarray) -> bool:
    """Whether the array lies in a mapped file."""
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(getattr(base, "obj", base), mmap.mmap)


@pytest.mark.parametrize("shape", [(1, 1), (7, 31), (64, 64), (129, 33)])
@pytest.mark.parametrize(
    "spec", ["int8/axis(axis=0)/sym/f32", "uint4/block(axis=1,size=32)/asym/f16"]
)
def test_codes_in_a_file_are_the_same(spec: str, shape: tuple[int, int]) -> None:
    inside, outside = store(1 << 30, spec, shape), store(0, spec, shape)
    for one, other in (
        (inside.get("w").codes, outside.get("w").codes),
        (inside.codes("w", np.dtype(np.int8)), outside.codes("w", np.dtype(np.int8))),
        (inside.get("w").scale, outside.get("w").scale),
    ):
        assert one.dtype == other.dtype and np.array_equal(one, other)
        assert not is_mapped(one)
        assert is_mapped(other)


def test_the_budget_counts_both_containers() -> None:
    found = store(3 * 64 * 64, "int8/axis(axis=0)/sym/f32", (64, 64))
    assert not is_mapped(found.get("w").codes)
    assert not is_mapped(found.codes("w", np.dtype(np.int8)))
    found = store(3 * 64 * 64 - 1, "int8/axis(axis=0)/sym/f32", (64, 64))
    assert not is_mapped(found.get("w").codes)
    assert is_mapped(found.codes("w", np.dtype(np.int8)))
