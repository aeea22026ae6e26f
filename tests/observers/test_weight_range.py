# SPDX-License-Identifier: Apache-2.0
"""code_weight: scales, zero points and codes of weights (N2 … N6)."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.spec import QuantSpec

SPECS = [
    "int8/axis(axis=0)/sym/f32",
    "int4/axis(axis=0)/sym/f32",
    "int1/axis(axis=0)/sym/f32",
    "binary/block(axis=1,size=32)/sym/f16",
    "e2m1/block(axis=1,size=32)/sym/f16",
    "int3/block(axis=1,size=32)/sym/f16",
    "uint4/block(axis=1,size=32)/asym/f16",
    "uint2/block(axis=1,size=64)/asym/f32",
    "int4/tensor/sym/f32",
    "uint8/tensor/asym/f32",
]
EACH = pytest.mark.parametrize("text", SPECS)
LENGTHS = pytest.mark.parametrize("k", [1, 31, 32, 33, 70, 96])


def weight_of(k: int, seed: int = 0) -> NDArray[np.float32]:
    """Heavy-tailed rows, one of zeros, one of positive and one of equal numbers."""
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal((9, k)) ** 3).astype(np.float32)
    w[3], w[4], w[5] = 0, np.abs(w[4]), -0.75
    return w


def block_errors(weight: NDArray[np.float32], coded: CodedWeight) -> NDArray[np.float64]:
    """Squared error of every block [N, num_blocks], float64."""
    squares = (coded.decode().astype(np.float64) - weight) ** 2
    starts = np.arange(0, weight.shape[1], coded.block)
    return np.add.reduceat(squares, starts, axis=1)


@EACH
@LENGTHS
def test_mse_is_at_most_minmax_in_every_block(text: str, k: int) -> None:
    spec, weight = QuantSpec.parse(text), weight_of(k)
    minmax = block_errors(weight, code_weight(weight, spec, "minmax"))
    mse = block_errors(weight, code_weight(weight, spec, "mse"))
    if spec.granularity == "tensor":
        minmax, mse = minmax.sum(keepdims=True), mse.sum(keepdims=True)
    # The search compares float32 sums: of n squares each is off by at most (n + 3) units of 2^-24.
    terms = weight.size if spec.granularity == "tensor" else min(k, spec.block_size or k)
    rounding = (terms + 3) * 2.0**-24 * (mse + minmax)
    assert (mse <= minmax + rounding).all()


@EACH
@LENGTHS
def test_blocks_are_coded_alone(text: str, k: int) -> None:
    spec, weight = QuantSpec.parse(text), weight_of(k)
    whole = code_weight(weight, spec, "mse")
    for index in range(whole.num_blocks if spec.granularity == "block" else 0):
        columns = slice(index * spec.block_size, (index + 1) * spec.block_size)
        part = code_weight(np.ascontiguousarray(weight[:, columns]), spec, "mse")
        assert np.array_equal(part.codes, whole.codes[:, columns])
        assert np.array_equal(part.scale[:, 0], whole.scale[:, index])
    assert whole.num_blocks == (-(-k // spec.block_size) if spec.block_size else 1)


@EACH
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_zero_is_exact(text: str, method: str) -> None:
    spec, weight = QuantSpec.parse(text), weight_of(70)
    weight[:, ::3] = 0
    coded = code_weight(weight, spec, method)
    zeros = coded.decode()[weight == 0]
    assert spec.format.name == "binary" or not zeros.any()
    assert (zeros == 0).all() != (spec.format.name == "binary")


@EACH
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_scales_are_stored(text: str, method: str) -> None:
    spec = QuantSpec.parse(text)
    coded = code_weight(weight_of(70), spec, method)
    stored = {"f16": np.float16, "f32": np.float32}[spec.scale_format]
    assert np.array_equal(coded.scale, coded.scale.astype(stored).astype(np.float32))
    assert (coded.scale >= {"f16": 2.0**-14, "f32": 2.0**-126}[spec.scale_format]).all()
    if spec.granularity != "tensor":
        assert (coded.scale[3] == 1).all()  # zeros (N6)


def errors_and_limits(
    weight: NDArray[np.float32], coded: CodedWeight, spec: QuantSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of every element. Half a step; a rounded zero point moves the range by half a step more."""
    low, high = spec.format.quantized_range(symmetric=spec.is_symmetric)
    values = np.unique(spec.format.values[low - spec.format.code_min :][: high - low + 1])
    step = np.diff(values).max() * coded.per_column(coded.scale).astype(np.float64)
    # The stored scale is off by a unit at most, which the greatest value multiplies.
    unit = {"f16": 2.0**-11, "f32": 2.0**-23}[spec.scale_format]
    span = np.abs(values).max() * (1 if spec.is_symmetric else 2)
    limit = step * ((0.5 if spec.is_symmetric else 1) + unit * span)
    error = np.abs(coded.decode().astype(np.float64) - weight)
    return (np.where(weight > 0, 0, error) if spec.format.name == "int1" else error), limit


@EACH
def test_minmax_is_within_half_a_step(text: str) -> None:
    spec, weight = QuantSpec.parse(text), weight_of(70)
    coded = code_weight(weight, spec, "minmax")
    error, limit = errors_and_limits(weight, coded, spec)
    assert (error <= limit).all()


@EACH
def test_one_shifted_code_is_beyond_the_limit(text: str) -> None:
    spec, weight = QuantSpec.parse(text), weight_of(70)
    coded = code_weight(weight, spec, "minmax")
    low, _ = spec.format.quantized_range(symmetric=spec.is_symmetric)
    by = 1 if spec.is_symmetric else 2
    shifted = np.where(coded.codes - by >= low, coded.codes - by, coded.codes + by)
    shifted_error, limit = errors_and_limits(weight, replace(coded, codes=shifted), spec)
    worst = np.unravel_index(np.argmax(shifted_error / limit), weight.shape)
    one = coded.codes.copy()
    one[worst] = shifted[worst]
    error, limit = errors_and_limits(weight, replace(coded, codes=one), spec)
    assert (error > limit).sum() == 1


def test_int4_by_hand() -> None:
    weight = np.float32([[0.75, -1.75, 0.375, 0.0]])
    coded = code_weight(weight, QuantSpec.parse("int4/axis(axis=0)/sym/f32"), "minmax")
    assert coded.scale.tolist() == [[0.25]]  # 1.75 / 7
    assert coded.codes.tolist() == [[3, -7, 2, 0]]  # 1.5 is a tie and goes to 2


def test_asymmetric_by_hand() -> None:
    weight = np.float32([[-1, 0, 2, 6.5]])
    coded = code_weight(weight, QuantSpec.parse("uint4/axis(axis=0)/asym/f32"), "minmax")
    assert coded.scale.tolist() == [[0.5]]  # 7.5 / 15
    assert coded.zero_point.tolist() == [[2]]
    assert coded.codes.tolist() == [[0, 2, 6, 15]]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "text",
    [
        "int4/axis(axis=0)/sym/f32",
        "int8/axis(axis=0)/sym/f32",
        "uint4/axis(axis=0)/asym/f32",
        "uint4/block(axis=1,size=32)/asym/f16",
        "int3/block(axis=1,size=32)/sym/f16",
        "e2m1/block(axis=1,size=32)/sym/f16",
    ],
)
def test_the_larger_side_is_not_cut(text: str, sign: int) -> None:
    spec = QuantSpec.parse(text)
    weight = (sign * np.random.default_rng(1).gumbel(size=(50, 32))).astype(np.float32)  # skewed
    coded = code_weight(weight, spec, "minmax")
    rows, at = np.arange(50), np.abs(weight).argmax(1)
    scale = coded.scale[rows, 0].astype(np.float64)
    largest = weight[rows, at].astype(np.float64)
    # a rounded zero point moves the end of the range by half a step; scales are stored rounded
    limit = scale * 0.5 * (not spec.is_symmetric) + np.abs(largest) * 2.0**-10
    found = coded.decode()[rows, at].astype(np.float64)
    assert (np.abs(found - largest) <= limit).all()
    shorter = found - np.sign(largest) * scale * (1 if spec.is_symmetric else 2)
    assert (np.abs(shorter - largest) > limit).all()


def test_binary_scale_is_the_mean_magnitude() -> None:
    weight = np.float32([[1, -2, 3, -6]])
    coded = code_weight(weight, QuantSpec.parse("binary/axis(axis=0)/sym/f32"), "mse")
    assert coded.scale.tolist() == [[3.0]]
    assert coded.codes.tolist() == [[1, 0, 1, 0]]


def test_f16_overflow_is_clamped() -> None:
    weight = np.full((1, 4), 1e30, np.float32)
    coded = code_weight(weight, QuantSpec.parse("int4/block(axis=1,size=32)/sym/f16"), "minmax")
    assert coded.scale.tolist() == [[65504.0]]
    assert coded.codes.tolist() == [[7] * 4]


def test_slices_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, weight = QuantSpec.parse("int4/block(axis=1,size=32)/sym/f16"), weight_of(70)
    whole = code_weight(weight, spec, "mse")
    monkeypatch.setattr("qcompile.observers.weight_range._ROWS_BYTES", 4 * 70 * 2)
    sliced = code_weight(weight, spec, "mse")
    assert np.array_equal(whole.codes, sliced.codes)
    assert np.array_equal(whole.scale, sliced.scale)
