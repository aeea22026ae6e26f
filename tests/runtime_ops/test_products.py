# SPDX-License-Identifier: Apache-2.0
"""QMatMul and QConv on edges of tiles, chunks, blocks and formats, N10 … N15."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import FORMATS, Format, get
from qcompile.layouts.n16k4 import chunk_columns
from qcompile.numerics.conv import Window
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one
from tests.runtime_ops.products import assert_within
from tests.runtime_ops.single_op import random_weight

NAMES = list(FORMATS)
WINDOWS = [
    (Window((3, 3), (1, 1), (1, 1, 1, 1)), (2, 7, 6)),
    (Window((3, 3), (2, 2), (0, 1, 1, 0)), (1, 9, 8)),
    (Window((1, 1)), (1, 5, 5)),
    (Window((2, 3), (1, 2), (1, 2, 0, 1), (2, 1)), (1, 8, 9)),
    (Window((3, 2), (1, 1), (1, 0, 1, 2), (1, 2)), (1, 6, 7)),
    (Window((5, 5)), (1, 5, 6)),
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def block_sizes(format: Format) -> list[tuple[int, int]]:
    """(K, block_size): one block, whole blocks, short tails, a chunk ± 1."""
    chunk = chunk_columns(format)
    size = -(-32 // chunk) * chunk
    return [
        *((96, 0), (3 * size, size), (6 * size + 8, 2 * size), (4 * size + 1, 4 * size)),
        *((2 * size + chunk - 1, size), (size + chunk + 1, size)),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_static_formats(rng, name):
    format = get(name).in_int16()
    for n, k, rows in [(17, 37, 3), (65, 64, 13)]:
        for with_zero_point in {False, not format.is_table}:
            weight = random_weight(rng, n, k, format, 0, "none", with_zero_point=with_zero_point)
            got, expected = products.matmul_static(rng, weight, (rows,))
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "uint3", "e2m1"])
def test_static_codes_to_floats(rng, name):
    format = get(name)
    for n, k, rows in [(1, 5, 1), (17, 37, 3), (65, 64, 13), (64, 72, 20)]:
        for with_zero_point in {False, not format.is_table}:
            weight = random_weight(rng, n, k, format, 0, "none", with_zero_point=with_zero_point)
            np.testing.assert_array_equal(*products.matmul_scaled(rng, weight, (rows,)))
    weight = random_weight(rng, 20, 8191, format, 0, "none", extreme=True)
    np.testing.assert_array_equal(*products.matmul_scaled(rng, weight, (7,)))


@pytest.mark.parametrize("name", ["int8", "uint8", "uint4"])
@pytest.mark.parametrize("window,shape", WINDOWS)
def test_asymmetric_conv_to_codes_and_to_floats(rng, name, window, shape):
    taps = window.kernel[0] * window.kernel[1]
    cases = [(3, 5, 1, "n16k4/1"), (8, 70, 2, "n16k4/1"), (17, 17, 17, "kc/1")]
    for channels, n, group, layout in cases:
        k, full = taps * channels // group, (*shape, channels)
        weight = random_weight(rng, n, k, get(name), 0, "none", with_zero_point=True)
        given = weight, full, window, group, layout
        np.testing.assert_array_equal(*products.conv_static(rng, *given))
        np.testing.assert_array_equal(*products.conv_scaled(rng, *given))


@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "uint3", "e2m1"])
def test_dyadic_codes_and_sums(rng, name):
    format = get(name)
    for n, k, rows in [(1, 5, 1), (17, 37, 3), (65, 64, 13), (64, 72, 20)]:
        for with_zero_point in {False, not format.is_table}:
            weight = random_weight(rng, n, k, format, 0, "none", with_zero_point=with_zero_point)
            for got, expected in products.matmul_dyadic(rng, weight, (rows,)):
                np.testing.assert_array_equal(got, expected)
    weight = random_weight(rng, 20, 8191, format, 0, "none", extreme=True)
    for got, expected in products.matmul_dyadic(rng, weight, (7,), threads=2):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["int8", "uint4"])
@pytest.mark.parametrize("window,shape", WINDOWS)
def test_dyadic_conv(rng, name, window, shape):
    taps = window.kernel[0] * window.kernel[1]
    for channels, n, group, layout in [
        *((3, 5, 1, "n16k4/1"), (8, 70, 2, "n16k4/1")),
        *((17, 17, 17, "kc/1"), (33, 33, 33, "kc/1")),
    ]:
        k, full = taps * channels // group, (*shape, channels)
        weight = random_weight(rng, n, k, get(name), 0, "none")
        for got, expected in products.conv_dyadic(rng, weight, full, window, group, layout):
            np.testing.assert_array_equal(got, expected)


def test_dyadic_sums_see_one_code(rng):
    weight = random_weight(rng, 33, 96, get("int8"), 0, "none")
    codes = weight.codes.copy()
    codes[5, 7] += 1 if codes[5, 7] < 127 else -1
    state = rng.bit_generator.state
    got = products.matmul_dyadic(rng, weight, (3,))[1][0]
    rng.bit_generator.state = state
    changed = type(weight)(codes, None, None, weight.format, 0, "none")
    assert (got != products.matmul_dyadic(rng, changed, (3,))[1][1]).any()


def test_floats_of_codes_see_one_code(rng):
    weight = random_weight(rng, 33, 96, get("int8"), 0, "none")
    codes = weight.codes.copy()
    codes[5, 7] += 1 if codes[5, 7] < 127 else -1
    state = rng.bit_generator.state
    got, _ = products.matmul_scaled(rng, weight, (3,))
    rng.bit_generator.state = state
    changed = type(weight)(codes, None, None, weight.format, 0, "none")
    assert (got != products.matmul_scaled(rng, changed, (3,))[1]).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [8, None])
def test_real_formats(rng, name, bits):
    format = get(name) if bits is None else get(name).in_int16()
    for i, (k, block_size) in enumerate(block_sizes(format)):
        with_zero_point = not format.is_table and i % 2 == 1
        scale_format = "f16" if i % 3 else "f32"
        weight = random_weight(
            rng, 80, k, format, block_size, scale_format, with_zero_point=with_zero_point
        )
        assert_within(*products.matmul_real(rng, weight, (1 + 4 * i,), bits))


@pytest.mark.parametrize("bits", [8, 4, 2, None])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 131])
def test_real_sizes(rng, n, bits):
    for k in (1, 3, 4, 5, 61, 64, 67):
        weight = random_weight(rng, n, k, get("int4"), 0, "f32")
        for rows in (1, 2, 3, 4, 5, 9, 16, 17):
            assert_within(*products.matmul_real(rng, weight, (rows,), bits))


@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "uint2", "int1", "e2m1"])
def test_static_rows(rng, name):
    for n in (1, 16, 33, 64, 112):
        weight = random_weight(rng, n, 72, get(name), 0, "none")
        for rows in (1, 6, 7, 12, 13, 16, 31):
            np.testing.assert_array_equal(*products.matmul_static(rng, weight, (rows,)))


@pytest.mark.parametrize("name", ["int8", "uint8", "uint7", "int4", "uint1", "e2m1"])
@pytest.mark.parametrize("rows", [1, 20])
def test_deep_extremes(rng, name, rows):
    weight = random_weight(rng, 20, 8191, get(name), 0, "none", extreme=True)
    np.testing.assert_array_equal(*products.matmul_static(rng, weight, (rows,)))
    weight = random_weight(rng, 20, 8191, get(name), 0, "f16", extreme=True)
    assert_within(*products.matmul_real(rng, weight, (rows,)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 8])
def test_every_code_at_one_end(rng, name, rows):
    """Sums of few bits, as kernels hold some on the way, reach their limits nowhere else."""
    # A whole panel, which few rows take another way, and a tile.
    format, shape = get(name).in_int16(), (80, 603)
    x = np.full((rows, shape[1]), 0, np.uint8)
    x[rows // 2 :] = 255
    ends = (format.code_min, format.code_max)
    if format.table is not None:
        ends = (int(np.argmin(format.table)), int(np.argmax(format.table)))
    cases = [(c, p) for c in ends for p in ((None,) if format.is_table else (None, *ends))]
    if format.specials:
        cases = [(format.special_code, p) for p in (min(format.specials), max(format.specials))]
    for code, point in cases:
        codes = np.full(shape, code, np.int16)
        points = None if point is None else np.full((shape[0], 1), point, np.int16)
        weight = CodedWeight(codes, None, points, format, 0, "none")
        for given in (x, 255 - x):
            got, expected = products.matmul_scaled(rng, weight, (rows,), given)
            np.testing.assert_array_equal(got, expected)


def test_longer_than_an_int32_sum(rng):
    weight = random_weight(rng, 3, 70_001, get("uint8"), 0, "none", extreme=True)
    np.testing.assert_array_equal(*products.matmul_static(rng, weight, (2,)))


def test_threads_and_many_rows(rng):
    weight = random_weight(rng, 200, 320, get("int4"), 64, "f16")
    assert_within(*products.matmul_real(rng, weight, (3, 133), threads=2))
    weight = random_weight(rng, 200, 320, get("int8"), 0, "none")
    np.testing.assert_array_equal(*products.matmul_static(rng, weight, (3, 133), threads=2))


@pytest.mark.parametrize("lead", [(), (0,), (2, 0, 3)])
def test_empty_and_vector(rng, lead):
    weight = random_weight(rng, 17, 33, get("int4"), 32, "f16")
    got, expected, bound = products.matmul_real(rng, weight, lead)
    assert got.shape == (*lead, 17)
    assert_within(got, expected, bound)


@pytest.mark.parametrize(
    "shape,expected",
    [
        ((1, 2, 9, 4), (1, 0, 7, 5)),  # the kernel is higher than the map
        ((1, 9, 2, 4), (1, 7, 0, 5)),
        ((2, 1, 1, 4), (2, 0, 0, 5)),
        ((0, 5, 5, 4), (0, 3, 3, 5)),
        ((1, 0, 5, 4), (1, 0, 3, 5)),
    ],
)
def test_empty_conv(rng, shape, expected):
    for layout, n in [("n16k4/1", 5), ("kc/1", 4)]:
        group = 1 if layout == "n16k4/1" else 4
        weight = random_weight(rng, n, 36 if group == 1 else 9, get("int4"), 0, "none")
        window = one.window_attributes(Window((3, 3)), group)
        multiplier = np.ones(n, np.float32)
        inputs = [np.zeros(shape, np.uint8), one.pack(weight, layout), None, multiplier]
        attributes = one.weight_attributes(weight, layout) | window | products.STATIC
        got = one.run("QConv", inputs, attributes, [(TensorProto.UINT8, 4)])[0]
        assert got.shape == (*expected[:3], n)


@pytest.mark.parametrize("name", ["int8", "int4", "uint3", "e2m1"])
@pytest.mark.parametrize("window,shape", WINDOWS)
def test_conv(rng, name, window, shape):
    for channels, n in [(3, 5), (16, 16), (8, 70)]:
        k = window.kernel[0] * window.kernel[1] * channels
        weight = random_weight(rng, n, k, get(name), 0, "none")
        got, expected = products.conv_static(rng, weight, (*shape, channels), window)
        np.testing.assert_array_equal(got, expected)
        block_size = 32 if k > 32 else 0
        weight = random_weight(rng, n, k, get(name), block_size, "f16")
        assert_within(*products.conv_dynamic(rng, weight, (*shape, channels), window))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_largest_clip(rng, bits):  # N4
    small, weight = (random_weight(rng, 33, k, get("int4"), 0, "f32") for k in (27, 61))
    for times in (1, 1.1, 8):
        given = {"bits": bits, "reach": float((2 ** (bits - 1) - 1) * times)}
        assert_within(*products.matmul_real(rng, weight, (5,), **given))
        assert_within(*products.conv_dynamic(rng, small, (2, 7, 5, 3), Window((3, 3)), **given))


@pytest.mark.parametrize("name", ["int8", "uint4"])
@pytest.mark.parametrize("group", [2, 3])
def test_grouped_conv(rng, name, group):
    for window, shape in WINDOWS[:4]:
        for in_group, out_group in [(4, 17), (3, 2)]:
            k = window.kernel[0] * window.kernel[1] * in_group
            full = (*shape, in_group * group)
            weight = random_weight(
                rng, out_group * group, k, get(name), 0, "none", with_zero_point=name == "uint4"
            )
            got, expected = products.conv_static(rng, weight, full, window, group)
            np.testing.assert_array_equal(got, expected)
            weight = random_weight(rng, out_group * group, k, get(name), 0, "f32")
            assert_within(*products.conv_dynamic(rng, weight, full, window, group))


@pytest.mark.parametrize("name", ["int8", "int5", "uint4", "int1", "e2m1"])
@pytest.mark.parametrize("channels", [1, 15, 16, 33])
def test_depthwise_conv(rng, name, channels):
    for window, shape in WINDOWS:
        k = window.kernel[0] * window.kernel[1]
        full = (*shape, channels)
        weight = random_weight(
            rng, channels, k, get(name), 0, "none", with_zero_point=name == "uint4"
        )
        got, expected = products.conv_static(rng, weight, full, window, channels, "kc/1")
        np.testing.assert_array_equal(got, expected)
        weight = random_weight(rng, channels, k, get(name), 0, "f16")
        assert_within(*products.conv_dynamic(rng, weight, full, window, channels, "kc/1", bits=5))


def test_large_conv_on_threads(rng):
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    weight = random_weight(rng, 80, 9 * 32, get("int4"), 0, "none")
    got, expected = products.conv_static(rng, weight, (2, 24, 23, 32), window, threads=2)
    np.testing.assert_array_equal(got, expected)


def test_tolerance_sees_one_code(rng):
    """The bound is tight enough: one code changed by one is outside of it."""
    weight = random_weight(rng, 33, 96, get("int8"), 32, "f16")
    codes = weight.codes.copy()
    codes[5, 7] += 1 if codes[5, 7] < 127 else -1
    state = rng.bit_generator.state
    got, _, bound = products.matmul_real(rng, weight, (3,))
    rng.bit_generator.state = state
    changed = type(weight)(codes, weight.scale, None, weight.format, 32, "f16")
    _, expected, _ = products.matmul_real(rng, changed, (3,))
    assert (np.abs(got - expected) > bound).any()
