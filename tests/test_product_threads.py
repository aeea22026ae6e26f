# SPDX-License-Identifier: Apache-2.0
"""NumPy's products use one thread for models of small weights, and what was set before after it."""

import os

import numpy as np
import onnx_ir as ir
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from qcompile.product_threads import ProductThreads


def model(columns: int) -> ir.Model:
    """y = x · w with a weight [1024, columns]."""
    w = ir.Value(name="w", const_value=ir.tensor(np.zeros((1024, columns), np.float32), name="w"))
    node = ir.node("MatMul", [ir.Value(name="x"), w])
    graph = ir.Graph(
        [node.inputs[0]], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20}
    )
    return ir.Model(graph, ir_version=9)


def threads() -> set[int]:
    """Of every BLAS library that is loaded."""
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="BLAS has one thread on one core")
@pytest.mark.parametrize(("columns", "expected"), [(1023, {1}), (1024, {2})])
def test_the_largest_weight_decides(columns: int, expected: set[int]) -> None:
    with threadpool_limits(2, user_api="blas"):
        with ProductThreads() as limited:
            limited.fit(model(columns))
            assert threads() == expected
        assert threads() == {2}
