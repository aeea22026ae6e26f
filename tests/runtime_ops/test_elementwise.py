# SPDX-License-Identifier: Apache-2.0
"""QAdd, QMul, QLut, QPool, Quantize, Dequantize against numerics (N2, N4, N20 … N22, N24 … N26)."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import FORMATS, get
from qcompile.numerics import pool
from qcompile.numerics.add import qadd
from qcompile.numerics.conv import Window
from qcompile.numerics.lut import qlut
from qcompile.numerics.mul import qmul
from qcompile.numerics.quantize import dequantize, quantize, quantize_dynamic
from qcompile.numerics.resize import MODES, Grid, qresize
from tests.runtime_ops.single_op import (
    pack,
    random_weight,
    run,
    weight_attributes,
    window_attributes,
)

U8, S8, F32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


PAIRS = pytest.mark.parametrize(
    "a_shape,b_shape",
    [
        ((2, 3, 5, 17), (2, 3, 5, 17)),
        ((1, 8, 8, 64), (64,)),
        ((2, 9, 8, 33), (2, 1, 1, 33)),
        ((4, 1, 7), (5, 7)),
        ((3, 4), (3, 1)),
        ((), (6,)),
        ((1,), ()),
        ((0, 4), (1, 4)),
        ((300, 257), (300, 257)),
        ((700, 300), (700, 1)),
    ],
)


@PAIRS
def test_add(rng, a_shape, b_shape):
    a = rng.integers(0, 256, a_shape).astype(np.uint8)
    b = rng.integers(0, 256, b_shape).astype(np.uint8)
    names = ("a_multiplier", "b_multiplier", "a_zero_point", "b_zero_point", "y_zero_point")
    for values in [(0.5, 1.5, 128, 3, 100, 0, 255), (0.37, 0.0125, 0, 255, 0, 0, 200)]:
        attributes = dict(zip((*names, "y_min", "y_max"), values, strict=True))
        expected = qadd(a, b, *values)
        got = run("QAdd", [a, b], attributes, [(U8, expected.ndim)], (0, 1), threads=2)[0]
        np.testing.assert_array_equal(got, expected)


def test_add_all_codes(rng):
    a, b = (m.astype(np.uint8) for m in np.meshgrid(np.arange(256), np.arange(256)))
    values = (0.5, 0.25, 77, 130, 8, 8, 255)  # many exact ties
    names = ("a_multiplier", "b_multiplier", "a_zero_point", "b_zero_point", "y_zero_point")
    attributes = dict(zip((*names, "y_min", "y_max"), values, strict=True))
    got = run("QAdd", [a, b], attributes, [(U8, 2)], (0, 1))[0]
    np.testing.assert_array_equal(got, qadd(a, b, *values))


@PAIRS
def test_dyadic_add_and_mul(rng, a_shape, b_shape):
    a = rng.integers(0, 256, a_shape).astype(np.uint8)
    b = rng.integers(0, 256, b_shape).astype(np.uint8)
    points = {"a_zero_point": 128, "b_zero_point": 3, "y_zero_point": 100, "y_min": 2, "y_max": 250}
    shape = [(U8, max(a.ndim, b.ndim))]
    for scales in [(0.5, 0.25), (0.37, -0.0125), (1e-9, 1.5)]:
        given = points | dict(zip(("a_multiplier", "b_multiplier"), scales, strict=True))
        got = run("QAdd", [a, b], given | {"requantize": "dyadic"}, shape, (0, 1), threads=2)[0]
        np.testing.assert_array_equal(got, qadd(a, b, **given, is_dyadic=True))
    for scale in (0.5, 0.0125, 2.0**-40):
        given = points | {"multiplier": scale}
        got = run("QMul", [a, b], given | {"requantize": "dyadic"}, shape, (0, 1), threads=2)[0]
        np.testing.assert_array_equal(got, qmul(a, b, **given, is_dyadic=True))


def test_dyadic_add_all_codes(rng):
    a, b = (m.astype(np.uint8) for m in np.meshgrid(np.arange(256), np.arange(256)))
    names = ("a_multiplier", "b_multiplier", "a_zero_point", "b_zero_point", "y_zero_point")
    given = dict(zip(names, (0.5, 0.25, 77, 130, 8), strict=True)) | {"y_min": 8, "y_max": 255}
    got = run("QAdd", [a, b], given | {"requantize": "dyadic"}, [(U8, 2)], (0, 1))[0]
    np.testing.assert_array_equal(got, qadd(a, b, **given, is_dyadic=True))
    assert (got != qadd(a, b, **given)).any()  # ties go up, not to even


@PAIRS
def test_mul(rng, a_shape, b_shape):
    a = rng.integers(0, 256, a_shape).astype(np.uint8)
    b = rng.integers(0, 256, b_shape).astype(np.uint8)
    names = ("multiplier", "a_zero_point", "b_zero_point", "y_zero_point", "y_min", "y_max")
    for values in [(0.5, 128, 3, 100, 0, 255), (0.0125, 0, 255, 200, 7, 240)]:
        attributes = dict(zip(names, values, strict=True))
        expected = qmul(a, b, *values)
        got = run("QMul", [a, b], attributes, [(U8, expected.ndim)], (0, 1), threads=2)[0]
        np.testing.assert_array_equal(got, expected)


def test_mul_all_codes(rng):
    a, b = (m.astype(np.uint8) for m in np.meshgrid(np.arange(256), np.arange(256)))
    values = (0.03125, 77, 130, 60, 8, 250)  # many exact ties
    names = ("multiplier", "a_zero_point", "b_zero_point", "y_zero_point", "y_min", "y_max")
    got = run("QMul", [a, b], dict(zip(names, values, strict=True)), [(U8, 2)], (0, 1))[0]
    np.testing.assert_array_equal(got, qmul(a, b, *values))
    assert (got != qmul(a, b, values[0], 78, *values[2:])).any()


@pytest.mark.parametrize(
    "shape", [(256,), (1,), (63,), (64,), (65,), (3, 5, 129), (0, 4), (2, 90000), ()]
)
def test_lut(rng, shape):
    x = rng.integers(0, 256, shape).astype(np.uint8)
    x = np.arange(256, dtype=np.uint8) if shape == (256,) else x
    table = rng.permutation(256).astype(np.uint8)
    for fed in [(0,), (0, 1)]:
        got = run("QLut", [x, table], {}, [(U8, x.ndim)], fed, threads=2)[0]
        np.testing.assert_array_equal(got, qlut(x, table))
    changed = table.copy()
    changed[x.ravel()[:1]] ^= 1
    assert x.size == 0 or (got != qlut(x, changed)).any()


GRIDS = {
    "twice": {"scales": (2.0, 2.0)},
    "half and thrice": {"scales": (0.5, 3.0)},
    "odd": {"scales": (1.3, 0.7)},
    "sizes": {"sizes": (11, 4)},
    "one row": {"sizes": (1, 9)},
    "none": {"scales": (0.1, 1.0)},
}


@pytest.mark.parametrize("given", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_resize(rng, mode, given, channels):
    x = rng.integers(0, 256, (2, 5, 7, channels)).astype(np.uint8)
    values = {"x_zero_point": 117, "y_zero_point": 100, "y_min": 3, "y_max": 250}
    for scale in (1.0, 1.13):
        attributes = {k: list(v) for k, v in given.items()} | {"mode": mode, "multiplier": scale}
        got = run("QResize", [x], attributes | values, [(U8, 4)], threads=2)[0]
        np.testing.assert_array_equal(got, qresize(x, Grid(mode, **given), scale, **values))
        x_changed = x ^ 128
        other = qresize(x_changed, Grid(mode, **given), scale, **values)
        assert got.size == 0 or (got != other).any()


WINDOWS = [
    *(Window((2, 2), (2, 2)), Window((3, 3), (2, 2), (1, 1, 1, 1))),
    Window((3, 2), (1, 2), (0, 1, 2, 0)),
    Window((1, 1)),
    Window((3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
    Window((2, 2), (3, 2), (1, 1, 0, 1), (1, 1), True),
    Window((2, 3), (1, 1), (0, 1, 1, 1), (3, 2)),
    Window((9, 1), (3, 1), (0, 0, 0, 0), (1, 1), True),  # beyond the map, by less than a stride
    Window((2, 3), (1, 1), (1, 1, 1, 1), (8, 1)),  # padding alone
    Window((5, 1), (2, 1), (0, 0, 0, 0), (3, 1), True),  # too large by more: no output
]


@pytest.mark.parametrize("channels", [1, 16, 63, 130])
@pytest.mark.parametrize("window", WINDOWS)
def test_pool(rng, window, channels):
    x = rng.integers(0, 256, (2, 7, 8, channels)).astype(np.uint8)
    attributes = window_attributes(window) | {"ceil_mode": int(window.is_ceil)}
    del attributes["group"]
    got = run("QPool", [x], attributes | {"mode": "max"}, [(U8, 4)])[0]
    np.testing.assert_array_equal(got, pool.qpool_max(x, window))
    for include in (0,) if window.is_ceil else (0, 1):
        average = {"mode": "average", "count_include_pad": include, "multiplier": 0.83}
        average |= {"x_zero_point": 131, "y_zero_point": 120, "y_min": 5, "y_max": 240}
        got = run("QPool", [x], attributes | average, [(U8, 4)])[0]
        expected = pool.qpool_average(
            x, window, 0.83, 131, 120, 5, 240, count_include_pad=bool(include)
        )
        np.testing.assert_array_equal(got, expected)
        got = run("QPool", [x], attributes | average | {"requantize": "dyadic"}, [(U8, 4)])[0]
        given = {"count_include_pad": bool(include), "is_dyadic": True}
        expected = pool.qpool_average(x, window, 0.83, 131, 120, 5, 240, **given)
        np.testing.assert_array_equal(got, expected)


def test_pool_of_the_whole_map(rng):
    x = rng.integers(0, 256, (3, 8, 5, 64)).astype(np.uint8)
    attributes = {"mode": "average", "multiplier": 1.7, "x_zero_point": 2, "y_zero_point": 1}
    attributes |= {"y_min": 0, "y_max": 255}
    got = run("QPool", [x], attributes, [(U8, 4)])[0]
    np.testing.assert_array_equal(got, pool.qpool_average(x, Window((8, 5)), 1.7, 2, 1))


def coding_attributes(format, granularity, axis=0, block_size=0):
    attributes = {"bits": format.bits, "is_signed": int(format.is_signed and not format.is_table)}
    if format.levels is not None:
        attributes["levels"] = format.levels
    if format.is_table:
        attributes["table"] = [float(v) for v in format.values]
    return attributes | {"granularity": granularity, "axis": axis, "block_size": block_size}


def per_element(values, granularity):
    """Scales or zero points, broadcastable to the [3, 10, 4] tensor below (axis 1, blocks of 3)."""
    if granularity == "block":
        return values.repeat(3, 1)[:, :10]
    return values[:, None] if granularity == "axis" else values


@pytest.mark.parametrize("name", list(FORMATS))
def test_quantize_and_dequantize(rng, name):
    format = get(name)
    x = (rng.standard_normal((3, 10, 4)) * format.absmax(symmetric=False)).astype(np.float32)
    x.flat[:3] = np.nan, np.inf, -np.inf
    grids = {"tensor": (), "axis": (10,), "block": (3, 4, 4)}
    for granularity, scale_shape in grids.items():
        attributes = coding_attributes(format, granularity, 1, 3)
        scale = rng.uniform(0.5, 1.5, scale_shape).astype(np.float32)
        scale.flat[0] = 1  # ties
        full = per_element(scale, granularity)
        points = [None]
        if not format.is_table:
            points.append(rng.integers(format.code_min, format.code_max + 1, scale_shape))
        for point in points:
            wide = np.zeros(scale_shape, np.int64) if point is None else np.asarray(point)
            wide = per_element(wide, granularity)
            stored = None if point is None else np.asarray(point).astype(np.uint8).view(np.int8)
            expected = quantize(x, full, wide, format, symmetric=point is None)
            codes, used = run(
                "Quantize", [x, scale, stored], attributes, [(S8, 3), (F32, scale.ndim)]
            )
            np.testing.assert_array_equal(codes, expected.astype(np.uint8).view(np.int8))
            np.testing.assert_array_equal(used, scale)
            y = run("Dequantize", [codes, scale, stored], attributes, [(F32, 3)])[0]
            np.testing.assert_array_equal(y, dequantize(expected, full, wide, format))


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantize_dynamic(rng, bits):
    x = rng.standard_normal((6, 5, 37)).astype(np.float32) * 1e3
    x[1] = 0
    x[2, 3, 4] = np.nan
    x[3, 0, 0] = -np.inf
    x[4] *= 1e-41  # an amax below the smallest scale
    limit = 2 ** (bits - 1) - 1
    for granularity, axes in {"row": (2,), "sample": (1, 2)}.items():
        for reach in (None, float(limit), limit * 1.25, limit * 8.0):
            attributes = coding_attributes(get(f"int{bits}"), granularity)
            attributes |= {} if reach is None else {"reach": reach}
            codes, scale = run("Quantize", [x, None, None], attributes, [(S8, 3), (F32, 3)])
            expected, expected_scale = quantize_dynamic(x, axes, bits, reach)
            np.testing.assert_array_equal(codes, expected)
            np.testing.assert_array_equal(scale, expected_scale)


def test_nan_row_stays_alone(rng):
    """A NaN makes its own row NaN, through the clip, and no other (N4)."""
    weight = random_weight(rng, 70, 40, get("int4"), 32, "f16")
    x = rng.standard_normal((12, 40)).astype(np.float32)
    x[3, 5], x[7, 0] = np.nan, np.inf
    kind = {"activation": "dynamic", "activation_bits": 8, "clip_min": 0.0, "clip_max": 6.0}
    y = run("QMatMul", [x, pack(weight)], weight_attributes(weight) | kind, [(F32, 2)])[0]
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), np.isin(np.arange(12), [3, 7]))
    assert np.isnan(y).any(axis=1).sum() == 2


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_quantize_ties(bits):
    """Codes near and on ties, where a product with the reciprocal of the scale would be wrong."""
    limit = 2 ** (bits - 1) - 1
    for amax in np.array([limit, 0.1, 1e-30, 1e-37, 3.7, 3.3e38, 2.0**-126 * limit], np.float32):
        ties = np.float32(amax / np.float32(limit)) * (np.arange(-limit, limit) + np.float32(0.5))
        near = [ties.astype(np.float32)]
        for _ in range(8):
            near.append(np.nextafter(near[-1], np.float32(np.inf)))
            near.insert(0, np.nextafter(near[0], np.float32(-np.inf)))
        x = np.concatenate([*near, [amax]]).astype(np.float32)[None]
        x = np.clip(x, -amax, amax)
        attributes = coding_attributes(get(f"int{bits}"), "row")
        codes, scale = run("Quantize", [x, None, None], attributes, [(S8, 2), (F32, 2)])
        expected, expected_scale = quantize_dynamic(x, (1,), bits)
        np.testing.assert_array_equal(scale, expected_scale)
        np.testing.assert_array_equal(codes, expected)
