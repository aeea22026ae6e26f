# SPDX-License-Identifier: Apache-2.0
"""Constants behind QuantizeLinear become the codes that it makes."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.passes.normalise.fold_quantize_into_codes import FoldQuantizeIntoCodes
from tests.passes.graphs import assert_left_alone, parse, run

W = "float[2,2] w = {0.3, -1.6, 2.5, 40}"


def folded(constants: str, text: str) -> None:
    """The pass leaves no quantizer, and the numbers stay."""
    text = f"f (float[2,2] x) => (float[2,2] y) <{W}, {constants}> {{ {text}   y = Mul (x, r) }}"
    after = parse(text)
    assert FoldQuantizeIntoCodes()(after).modified
    assert "QuantizeLinear" not in [n.op_type for n in after.graph]
    feed = {"x": np.ones((2, 2), np.float32)}
    assert np.array_equal(run(parse(text), feed)[0], run(after, feed)[0])


def test_one_scale_an_output() -> None:
    folded(
        "float[2] s = {0.25, 0.5}, int8[2] z = {0, 0}",
        """c = QuantizeLinear <axis = 0> (w, s, z)
        r = DequantizeLinear <axis = 0> (c, s, z)""",
    )


def test_clip_of_codes() -> None:
    folded(
        "float s = {0.25}, int8 z = {0}, int8 low = {-7}, int8 high = {7}",
        """c = QuantizeLinear (w, s, z)   d = Clip (c, low, high)
        r = DequantizeLinear (d, s, z)""",
    )


def test_clip_with_one_bound() -> None:
    folded(
        "float s = {0.25}, int8 z = {0}, int8 low = {-5}",
        """c = QuantizeLinear (w, s, z)   d = Clip (c, low)
        r = DequantizeLinear (d, s, z)""",
    )


def test_unsigned_without_zero_point() -> None:
    folded("float s = {0.25}", "c = QuantizeLinear (w, s)   r = DequantizeLinear (c, s)")


def test_activations_stay() -> None:
    text = """f (float[2] x) => (uint8[2] y) <float s = {0.5}, uint8 z = {0}>
    { y = QuantizeLinear (x, s, z) }"""
    assert_left_alone(FoldQuantizeIntoCodes(), text)


def test_zero_point_of_run_time() -> None:
    text = f"""f (uint8 z) => (uint8[2,2] y) <{W}, float s = {{0.5}}>
    {{ y = QuantizeLinear (w, s, z) }}"""
    assert_left_alone(FoldQuantizeIntoCodes(), text, "its zero point is computed at run time")


@pytest.mark.parametrize("kind", [2, 3, 17, 19, 21, 22, 25, 26])
@pytest.mark.parametrize("block", [0, 2, 3])
def test_every_type_and_blocks(kind: int, block: int) -> None:
    """The same numbers as ONNX Runtime's, past both ends of the codes and at ties."""
    rng = np.random.default_rng(kind)
    size = f", block_size = {block}" if block else ""
    shape = [-(-7 // block), 4] if block else [4]
    axis = 0 if block else 1
    model = ir.from_onnx_text(
        f"""<ir_version: 13, opset_import: ["": 25]>
        f (float[7,4] x) => (float[7,4] y) <float[1] w = {{1}}, float[1] s = {{1}}>
        {{ c = QuantizeLinear <axis = {axis}, output_dtype = {kind}{size}> (w, s)
           r = DequantizeLinear <axis = {axis}{size}> (c, s)   y = Mul (x, r) }}"""
    )
    real = rng.standard_normal((7, 4)) * 10.0 ** rng.integers(-3, 4, (7, 4))
    real[0] = [0.5, 1.5, -2.5, 1e6]
    scales = np.exp2(rng.integers(-2, 2, shape)) * rng.choice([1, 1.3], shape)
    for name, array in (("w", real), ("s", scales)):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
        value.shape = ir.Shape(array.shape)
    after = model.clone()
    assert FoldQuantizeIntoCodes()(after).modified
    feed = {"x": np.ones((7, 4), np.float32)}
    assert np.array_equal(run(model, feed)[0], run(after, feed)[0])
