# SPDX-License-Identifier: Apache-2.0
"""Target ort: no static product has outputs that ONNX Runtime 1.21 to 1.24 gets wrong with AMX."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.emit import oldest_runtime
from qcompile.graph import constant
from qcompile.passes import LOWER_ORT
from qcompile.passes.lower.insert_outputs_into_static_product import (
    InsertOutputsIntoStaticProduct,
)
from tests.passes.graphs import run
from tests.passes.stages import Staged, ops, run_passes, staged, with_weights

CONV = "c = Conv <pads = [1,1,1,1]> (x, w, k)   y = Relu (c)"
MATMUL = "m = MatMul (x, w)   a = Add (m, k)   y = Relu (a)"


def net(body: str, n: int, seed: int = 0, group: int = 1) -> Staged:
    """A Conv of 3 · group inputs or a product of 8, of n outputs."""
    dims = (f"{3 * group},4,4", f"{n},4,4") if "Conv" in body else ("8", str(n))
    text = f"f (float[b,{dims[0]}] x, float w, float k) => (float[b,{dims[1]}] y) {{ {body} }}"
    shape = (n, 3, 3, 3) if "Conv" in body else (8, n)
    return staged(with_weights(text, seed, w=shape, k=(n,)), "w8a8", "ort")


def widths(model: ir.Model) -> list[int]:
    """Outputs of every weight."""
    products = [n for n in model.graph if n.op_type in ("Conv", "MatMul", "Gemm")]
    return [constant(n.inputs[1].producer().inputs[1]).size for n in products]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n", [17, 20, 31, 52])
@pytest.mark.parametrize("body", [CONV, MATMUL, "y = MatMul (x, w)", "y = Gemm (x, w, k)"])
def test_wide(body: str, n: int, seed: int) -> None:
    found = net(body, n, seed)
    before = run_passes(found.quantized, *without())
    after = run_passes(found.quantized, *LOWER_ORT())
    assert (widths(before), widths(after)) == ([n], [-(-n // 32) * 32])
    assert ops(after).count("Slice") == 1
    np.testing.assert_array_equal(run(after, found.feed)[0], run(before, found.feed)[0])
    assert oldest_runtime(before) == "1.25" and oldest_runtime(after) == "1.17"
    assert list(after.graph.outputs[0].shape)[1] == n


def without() -> list[ir.passes.InPlacePass]:
    return [p for p in LOWER_ORT() if not isinstance(p, InsertOutputsIntoStaticProduct)]


@pytest.mark.parametrize("n", [6, 16, 32, 40, 48])
@pytest.mark.parametrize("body", [CONV, "y = MatMul (x, w)"])
def test_numbers_that_are_right(body: str, n: int) -> None:
    left_alone(net(body, n), [])


def test_a_conv_with_a_kernel_of_its_own() -> None:
    text = f"f (float[b,4,4,4] x, float w, float k) => (float[b,24,4,4] y) {{ {CONV} }}"
    left_alone(staged(with_weights(text, w=(24, 4, 3, 3), k=(24,)), "w8a8", "ort"), [])


def test_groups_need_a_later_release() -> None:
    body = CONV.replace("<", "<group = 2, ")
    found = net(body, 40, group=2)
    left_alone(found, ["it has groups"])
    assert oldest_runtime(run_passes(found.quantized, *LOWER_ORT())) == "1.25"


def test_a_weight_of_two_products() -> None:
    text = """f (float[b,8] x, float[b,8] v, float w) => (float[b,20] y)
    { m = MatMul (x, w)   n = MatMul (v, w)   y = Add (m, n) }"""
    found = staged(with_weights(text, w=(8, 20)), "w8a8", "ort")
    left_alone(found, ["its weight has other readers"] * 2)


def left_alone(found: Staged, reasons: list[str]) -> None:
    each = InsertOutputsIntoStaticProduct()
    assert not each(found.quantized.clone()).modified
    assert [r.reason for r in each.refusals] == reasons
