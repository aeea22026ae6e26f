# SPDX-License-Identifier: Apache-2.0
"""QConv: N10, N11, N13, N15, against loops and against ONNX's own reference."""

import numpy as np
import onnx.reference.ops.op_conv as onnx_conv
import pytest

from qcompile.formats import get
from qcompile.numerics.conv import Window, accumulate, patches, qconv_dynamic, qconv_static
from qcompile.numerics.weight import CodedWeight
from tests.numerics import loops
from tests.numerics.weights import random_weight

CASES = {
    "1x1": (Window((1, 1)), 1, 3, 4),
    "3x3 padded": (Window((3, 3), (1, 1), (1, 1, 1, 1)), 1, 2, 3),
    "strides": (Window((3, 2), (2, 3), (0, 1, 1, 0)), 1, 2, 3),
    "uneven pads": (Window((2, 3), (1, 2), (2, 0, 1, 3)), 1, 1, 2),
    "dilations": (Window((3, 2), (1, 1), (2, 1, 0, 1), (2, 3)), 1, 2, 2),
    "groups": (Window((3, 3), (2, 1), (1, 1, 1, 1)), 2, 4, 6),
    "depthwise": (Window((3, 3), (1, 1), (1, 1, 1, 1)), 4, 4, 4),
    "depthwise, two outputs a channel": (Window((2, 2)), 3, 3, 6),
}
EACH = pytest.mark.parametrize(("window", "group", "channels", "n"), CASES.values(), ids=CASES)


@EACH
def test_sums_by_loops(window: Window, group: int, channels: int, n: int) -> None:  # N10, N15
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (2, 6, 7, channels))
    values = rng.integers(-127, 128, (n, window.kernel[0] * window.kernel[1] * channels // group))
    expected = loops.conv(
        x, values, window.kernel, window.strides, window.pads, window.dilations, group
    )
    assert np.array_equal(accumulate(x, values, window, group), expected)


@EACH
def test_sums_are_those_of_onnx(window: Window, group: int, channels: int, n: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-128, 128, (2, 6, 7, channels))
    w = rng.integers(-127, 128, (n, *window.kernel, channels // group))
    y = onnx_conv.Conv.eval(
        x.transpose(0, 3, 1, 2).astype(np.float64),
        w.transpose(0, 3, 1, 2).astype(np.float64),
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=window.pads,
        dilations=window.dilations,
        group=group,
        n_outputs=1,
    )
    found = accumulate(x, w.reshape(n, -1), window, group)
    assert np.array_equal(found.transpose(0, 3, 1, 2), y)


@EACH
def test_static_by_loops(window: Window, group: int, channels: int, n: int) -> None:  # N11, N15
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (1, 5, 6, channels)).astype(np.uint8)
    k = window.kernel[0] * window.kernel[1] * channels // group
    weight = random_weight(rng, n, k, "int4", has_scale=False)
    bias, scale = rng.integers(-99, 99, n), rng.uniform(0.01, 0.1, n).astype(np.float32)
    codes = qconv_static(x, weight, bias.astype(np.int32), scale, window, group, 117, 40, 3, 250)
    sums = loops.conv(
        x.astype(int) - 117,
        weight.codes,
        window.kernel,
        window.strides,
        window.pads,
        window.dilations,
        group,
    )
    assert codes.shape == sums.shape
    for at in np.ndindex(sums.shape):
        o = at[3]
        expected = loops.requantize(int(sums[at]), int(bias[o]), scale[o], 40, 3, 250)
        assert codes[at] == expected


def test_padding_is_the_code_of_zero() -> None:  # N15
    weight = CodedWeight(np.full((1, 9), 1, np.int16), None, None, get("int8"), 0, "none")
    x = np.full((1, 1, 1, 1), 9, np.uint8)
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    assert qconv_static(x, weight, None, np.float32([1]), window, 1, 7, 0).tolist() == [[[[2]]]]


@EACH
def test_dynamic_by_loops(window: Window, group: int, channels: int, n: int) -> None:  # N4, N13
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 5, 6, channels)).astype(np.float32)
    x[1] *= 100
    k = window.kernel[0] * window.kernel[1] * channels // group
    weight, bias = random_weight(rng, n, k, "int5"), rng.standard_normal(n).astype(np.float32)
    y, bound = qconv_dynamic(x, weight, bias, window, group)
    for b in range(3):
        scale = np.abs(x[b]).max() / np.float32(127)
        codes = np.rint(x[b : b + 1] / scale).astype(int)
        sums = loops.conv(
            codes,
            weight.codes,
            window.kernel,
            window.strides,
            window.pads,
            window.dilations,
            group,
        )
        found = (weight.scale[:, 0] * sums[0].astype(np.float32)) * scale + bias
        assert (np.abs(found - y[b]) <= bound[b]).all()
        twin = (weight.scale[:, 0] * (sums[0] + 1).astype(np.float32)) * scale + bias
        assert (np.abs(twin - y[b]) > bound[b]).all()


def test_dynamic_blocks_add_up() -> None:  # N13
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    whole = random_weight(rng, 5, 27, "int4")
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    blocked = CodedWeight(
        whole.codes, np.repeat(whole.scale, 4, axis=1), None, whole.format, 8, "f32"
    )
    y, bound = qconv_dynamic(x, whole, None, window)
    z, wider = qconv_dynamic(x, blocked, None, window)
    assert (np.abs(y - z) <= 2.0**-50 * wider / 2.0**-23).all()  # both are float64 sums
    assert (wider >= bound).all()


def test_nan_stays_in_its_sample() -> None:  # N4
    rng = np.random.default_rng(5)
    weight, window = random_weight(rng, 3, 18), Window((3, 3))
    x = rng.standard_normal((3, 4, 4, 2)).astype(np.float32)
    clean, _ = qconv_dynamic(x, weight, None, window)
    x[1, 0, 0, 0] = np.nan
    y, _ = qconv_dynamic(x, weight, None, window)
    assert np.isnan(y[1]).all()
    assert np.array_equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("shape", [(0, 4, 4, 2), (2, 2, 4, 2), (2, 4, 1, 2), (1, 1, 1, 2)])
def test_empty_outputs(shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(6)
    window = Window((3, 3))
    oh, ow = max(shape[1] - 2, 0), max(shape[2] - 2, 0)
    assert patches(np.zeros(shape), window).shape == (shape[0], oh, ow, 9, 2)
    x = rng.standard_normal(shape).astype(np.float32)
    y, bound = qconv_dynamic(x, random_weight(rng, 3, 18), None, window)
    assert y.shape == bound.shape == (shape[0], oh, ow, 3)
    static = random_weight(rng, 3, 18, has_scale=False)
    codes = qconv_static(x.astype(np.uint8), static, None, np.ones(3, np.float32), window, 1, 0, 0)
    assert codes.shape == (shape[0], oh, ow, 3)
