# SPDX-License-Identifier: Apache-2.0
"""The borders at which kernels for many channels, deep rows and packed codes go other ways."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import get
from qcompile.numerics import matmul
from qcompile.numerics.conv import Window
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one
from tests.runtime_ops.products import assert_within
from tests.runtime_ops.single_op import random_weight


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("channels", [63, 64, 65, 130])
def test_depthwise_groups_and_strips(rng, channels):
    """Sixty-four channels, four rows of taps and thirty-two pixels are one piece of the work."""
    windows = [((3, 3), 1, 1), ((5, 3), 2, 1), ((2, 4), 1, 2), ((9, 1), 3, 1)]
    for kernel, stride, dilation in windows:
        window = Window(kernel, (stride, stride), (1, 1, 1, 1), (dilation, dilation))
        weight = random_weight(rng, channels, kernel[0] * kernel[1], get("int8"), 0, "none")
        for width in (31, 32, 33):
            full = (1, 20, width * stride + kernel[1] * dilation, channels)
            got, expected = products.conv_static(rng, weight, full, window, channels, "kc/1")
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 63, 64, 65, 130])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_columns_in_turn(rng, channels, stride):
    """Sums of three (stride 1) or two pixels take turns; 32 channels go by pairs of pixels."""
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    weight = random_weight(rng, channels, 9, get("int8"), 0, "none")
    weight.codes[:1] = weight.codes.min()
    weight.codes[-1:] = weight.codes.max()
    for width in range(1, 10):
        full = (2, 4, width, channels)
        got, expected = products.conv_static(rng, weight, full, window, channels, "kc/1")
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("fed", [(0, 1), (0, 2), (0, 3), (0, 2, 3), (0, 1, 2, 3)])
def test_depthwise_operands_that_are_no_initializers(rng, fed):
    """A session keeps what it made of initializers only where all three are."""
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    for name in ("int8", "int4"):
        weight = random_weight(rng, 70, 9, get(name), 0, "none")
        for _ in range(2):
            given = (rng, weight, (1, 5, 6, 70), window, 70, "kc/1")
            got, expected = products.conv_static(*given, fed=fed)
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["int1", "int2", "ternary"])
def test_one_deep_row_at_both_ends(rng, name):
    """Sums of placed bits and of the rests of trits, over more columns than one pass takes."""
    for k in (16380, 16384, 40000):
        weight = random_weight(rng, 64, k, get(name), 0, "f32")
        weight.codes[:32] = weight.codes.max()
        for sign in (-1, 1):
            x = np.full((1, k), sign, np.float32)
            attributes = one.weight_attributes(weight)
            attributes |= {"activation": "dynamic", "activation_bits": 8}
            inputs = [x, one.pack(weight)]
            got = one.run("QMatMul", inputs, attributes, [(TensorProto.FLOAT, 2)])[0]
            assert_within(got, *matmul.qmatmul_dynamic(x, weight))


@pytest.mark.parametrize("bounds", [(0, 255), (3, 250), (200, 255)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1.5, 3e4])
def test_codes_of_huge_multipliers(rng, bounds, size):
    """Above 1 a product may leave int32, and is clamped as a float."""
    weight = random_weight(rng, 70, 40, get("int8"), 0, "none")
    x = rng.integers(0, 256, (13, 40)).astype(np.uint8)
    bias = rng.integers(-(2**30), 2**30, 70).astype(np.int32)
    multiplier = (rng.uniform(0.5, 1, 70) * size).astype(np.float32)
    attributes = one.weight_attributes(weight) | products.STATIC
    attributes |= {"y_min": bounds[0], "y_max": bounds[1]}
    inputs = [x, one.pack(weight), bias, multiplier]
    got = one.run("QMatMul", inputs, attributes, [(TensorProto.UINT8, 2)])[0]
    expected = matmul.qmatmul_static(x, weight, bias, multiplier, 117, 40, *bounds)
    np.testing.assert_array_equal(got, expected)


def test_one_deep_row_sees_one_code(rng):
    """The twin: a trit that is another one lies outside of the bound."""
    weight = random_weight(rng, 64, 40000, get("ternary"), 0, "f32")
    changed = type(weight)(
        weight.codes.copy(), weight.scale, None, weight.format, weight.block_size, "f32"
    )
    changed.codes[3, 39999] += 1 if changed.codes[3, 39999] < 1 else -1
    x = np.ones((1, 40000), np.float32)
    attributes = one.weight_attributes(changed)
    attributes |= {"activation": "dynamic", "activation_bits": 8}
    inputs = [x, one.pack(changed)]
    got = one.run("QMatMul", inputs, attributes, [(TensorProto.FLOAT, 2)])[0]
    expected, bound = matmul.qmatmul_dynamic(x, weight)
    assert (np.abs(got - expected) > bound).any()
