# SPDX-License-Identifier: Apache-2.0
"""N1 … N7, N24: quantize, dequantize, scales, dynamic scales, biases, params."""

import numpy as np
import pytest

from qcompile.formats import get
from qcompile.numerics.params import params_of_range
from qcompile.numerics.quantize import (
    bias_codes,
    dequantize,
    dynamic_scale,
    quantize,
    quantize_dynamic,
    store_scale,
)
from qcompile.numerics.weight import CodedWeight, coded_weight

F32 = np.finfo(np.float32)


def test_value_of_integers() -> None:  # N1
    assert dequantize([-8, 0, 7], 0.5, 1, get("int4")).tolist() == [-4.5, -0.5, 3.0]


def test_value_of_tables() -> None:  # N1
    assert dequantize([0, 1, 7, 9, 15], 0.5, 0, get("e2m1")).tolist() == [0, 0.5, 6, -0.5, -6]
    assert dequantize([0, 1], 3, 0, get("binary")).tolist() == [-3, 3]


def test_value_has_one_rounding() -> None:  # N1
    scale = np.float32(0.1)
    assert dequantize([255], scale, 2, get("uint8")) == np.float32(np.float64(scale) * 253)


def test_ties_go_to_even() -> None:  # N2
    real = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    assert quantize(real, 1, 0, get("int8")).tolist() == [0, 2, 2, 0, -2, -2]
    assert quantize(real, 1, 3, get("int8")).tolist() == [3, 5, 5, 3, 1, 1]  # rint, then the sum


def test_table_ties_go_to_the_even_code() -> None:  # N2
    # Middles of 0 1 2 3 4 6 8 12 with codes 0 … 7.
    real = [0.5, 1.5, 2.5, 3.5, 5, 7, 10]
    assert quantize(real, 1, 0, get("e2m1")).tolist() == [0, 2, 2, 4, 4, 6, 6]
    assert quantize([-r for r in real], 1, 0, get("e2m1")).tolist() == [0, 10, 10, 12, 12, 14, 14]
    assert quantize([0.0], 1, 0, get("binary")).tolist() == [0]


def test_division_is_one_f32_division() -> None:  # N2
    rng = np.random.default_rng(0)
    reals, scales = rng.standard_normal((2, 5000)).astype(np.float32)
    scales = np.abs(scales) / 50
    exact = reals.astype(np.float64) / scales
    codes = np.clip(np.rint(exact.astype(np.float32)), -127, 127)
    assert np.array_equal(quantize(reals, scales, 0, get("int8")), codes)


def test_the_sum_with_the_zero_point_saturates() -> None:  # N2, N3
    assert quantize([200, -300], 1, 100, get("uint8"), symmetric=False).tolist() == [255, 0]
    assert quantize([-9, 9], 1, 0, get("int4"), symmetric=True).tolist() == [-7, 7]
    assert quantize([-9, 9], 1, 0, get("int4"), symmetric=False).tolist() == [-8, 7]


def test_nan_is_the_zero_point() -> None:  # N24
    real = np.float32([np.nan, 1])
    assert quantize(real, 1, 128, get("uint8"), symmetric=False).tolist() == [128, 129]


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-1, 254, 1, 1),
        (3, 255, 1, 0),  # extended to contain 0
        (-510, -2, 2, 255),
        (0, 0, 1, 0),
        (-0.5, 127, 0.5, 1),
        (0, 1e-44, 2.0**-126, 0),  # never denormal (N6)
    ],
)
def test_params_of_range(low: float, high: float, scale: float, zero_point: int) -> None:  # N3
    params = params_of_range(low, high, get("uint8"))
    assert (params.scale, params.zero_point) == (scale, zero_point)


def test_params_represent_zero_exactly() -> None:  # N3
    rng = np.random.default_rng(1)
    for low, high in rng.standard_normal((300, 2)) * [[3.0, 100.0]]:
        params = params_of_range(low, high, get("uint4"))
        code = quantize([0], params.scale, params.zero_point, params.format, symmetric=False)
        assert code.tolist() == [params.zero_point]
        assert 0 <= params.zero_point <= 15
        assert dequantize(code, params.scale, params.zero_point, params.format).tolist() == [0]


def test_dynamic_scale_by_hand() -> None:  # N4
    x = np.float32([[1, -2.54], [0, 0], [7, 3]])
    expected = [np.float32(2.54) / np.float32(127), np.float32(1), np.float32(7) / np.float32(127)]
    assert dynamic_scale(x, (1,), 8).ravel().tolist() == [float(e) for e in expected]
    assert dynamic_scale(x, (1,), 4).ravel().tolist() == [
        float(np.float32(2.54) / np.float32(7)),
        1.0,
        1.0,
    ]
    assert dynamic_scale(x, (1,), 2).ravel()[2] == 7.0


def test_dynamic_codes_by_hand() -> None:  # N4
    codes, scale = quantize_dynamic(np.float32([[127, -63.5, 0.5, 1.5], [3, -3, 1, 0]]), (1,), 8)
    assert scale.ravel().tolist() == [1.0, float(np.float32(3) / np.float32(127))]
    assert codes.tolist() == [[127, -64, 0, 2], [127, -127, 42, 0]]


def test_reach_by_hand() -> None:  # N4: the largest is 8 scales, and clips to the code 7
    x = np.float32([[4, -8, 1.4, 0.6], [0, 0, 0, 0]])
    codes, scale = quantize_dynamic(x, (1,), 4, 8.0)
    assert scale.ravel().tolist() == [1.0, 1.0]
    assert codes.tolist() == [[4, -7, 1, 1], [0, 0, 0, 0]]
    plain = quantize_dynamic(x, (1,), 4)
    assert [p.tolist() for p in quantize_dynamic(x, (1,), 4, 7.0)] == [p.tolist() for p in plain]


def test_tiny_rows_have_the_smallest_normal_scale() -> None:  # N4
    tiny = F32.smallest_subnormal
    x = np.array([[tiny, 0], [2.0**-120, 0], [F32.smallest_normal, 0]], np.float32)
    codes, scale = quantize_dynamic(x, (1,), 8)
    assert scale.ravel().tolist() == [2.0**-126, 2.0**-126, 2.0**-126]
    assert codes.tolist() == [[0, 0], [64, 0], [1, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row(bad: float) -> None:  # N4
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    clean_codes, clean_scale = quantize_dynamic(x, (1,), 8)
    x[2, 3] = bad
    codes, scale = quantize_dynamic(x, (1,), 8)
    rest = [0, 1, 3]
    assert np.isnan(scale[2]).all()
    assert not codes[2].any()
    assert np.array_equal(codes[rest], clean_codes[rest])
    assert np.array_equal(scale[rest], clean_scale[rest])


def test_empty_tensors_have_scales() -> None:
    assert dynamic_scale(np.zeros((0, 5), np.float32), (1,), 8).shape == (0, 1)
    assert dynamic_scale(np.zeros((2, 0), np.float32), (1,), 8).tolist() == [[1], [1]]


def test_blocks() -> None:  # N5
    codes = np.arange(7, dtype=np.int16).reshape(1, 7)
    weight = CodedWeight(codes, np.float32([[1, 2, 4]]), np.int16([[1, 0, 2]]), get("int8"), 3)
    assert weight.num_blocks == 3
    assert weight.values().tolist() == [[-1, 0, 1, 3, 4, 5, 4]]
    assert weight.decode().tolist() == [[-1, 0, 1, 6, 8, 10, 16]]


def test_stored_scales() -> None:  # N6
    assert store_scale([0, 1e-45, 1, 3e38, np.inf], "f32").tolist() == [
        2.0**-126,
        2.0**-126,
        1,
        float(np.float32(3e38)),
        float(F32.max),
    ]
    assert store_scale([2.0**-15, 2.0**-14, 1e5], "f16").tolist() == [2.0**-14, 2.0**-14, 65504]
    assert store_scale([1 + 2.0**-11, 1 + 3 * 2.0**-11], "f16").tolist() == [1, 1 + 2.0**-9]


def test_bias_codes() -> None:  # N7
    bias = np.float32([0.75, -0.75, 1.25, 1e9, -1e9])
    codes = bias_codes(bias, 0.5, np.float32([1, 1, 1, 1e-3, 1e-3]))
    assert codes.tolist() == [2, -2, 2, 2**31 - 1, -(2**31 - 1)]
    assert codes.dtype == np.int32


def test_bias_is_divided_in_f64() -> None:  # N7
    rng = np.random.default_rng(5)
    bias, scale = rng.standard_normal((2, 200)).astype(np.float32)
    scale = (np.abs(scale) + 1) * np.float32(1e-5)
    expected = [round(float(b) / (0.1 * float(s))) for b, s in zip(bias, scale, strict=True)]
    assert bias_codes(bias, 0.1, scale).tolist() == expected


def test_weights_that_cannot_be() -> None:
    codes, scale = np.int16([[1, 2]]), np.float32([[1]])
    with pytest.raises(ValueError, match=r"^codes leave -2 … 1 of int2$"):
        CodedWeight(codes, scale, None, get("int2"))
    with pytest.raises(ValueError, match=r"^scale is \(1, 1\); needs \(1, 2\)$"):
        CodedWeight(codes, scale, None, get("int8"), 1)
    with pytest.raises(ValueError, match=r"^table format e2m1 has no zero point \(N1\)$"):
        CodedWeight(codes, scale, np.int16([[0]]), get("e2m1"))
    with pytest.raises(ValueError, match=r'^scale_format "none" does not fit the scales given$'):
        CodedWeight(codes, scale, None, get("int8"), 0, "none")
    with pytest.raises(ValueError, match=r"^this weight carries its scales in a multiplier$"):
        CodedWeight(codes, None, None, get("int8"), 0, "none").decode()


def test_uint8_in_an_int8_container() -> None:
    stored = np.uint8([[0, 127, 128, 255]]).view(np.int8)
    weight = coded_weight(get("uint8"), 0, "f32", stored, np.float32([[1]]), np.int8([[-128]]))
    assert weight.codes.tolist() == [[0, 127, 128, 255]]
    assert weight.zero_point.tolist() == [[128]]
    assert weight.unsigned().tolist() == [[0, 127, 128, 255]]
