# SPDX-License-Identifier: Apache-2.0
"""The weights of log2_<b> and twin<b> (N43) against their definition, bounds and real maps."""

import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models import digits, vit_digits
from qcompile.errors import InputError
from qcompile.numerics.attention import (
    Numbers,
    qattention,
    rounding_bound,
    scores_of,
    weighted_sums,
    weights_of,
)
from qcompile.numerics.softmax_formats import LOG2_BITS, NAMES, TWIN_BITS, SoftmaxFormat
from qcompile.session import session_options

LOGS = [SoftmaxFormat.parse(f"log2_{b}") for b in LOG2_BITS]
TWINS = [
    SoftmaxFormat.parse(f"twin{b}", shift)
    for b in TWIN_BITS
    for shift in SoftmaxFormat.parse(f"twin{b}").shifts
]
ALL = [SoftmaxFormat(), *LOGS, *TWINS]
BELOW = np.float32([*np.linspace(0, 12, 4001), 30, 1e30, np.inf])[None]
every = pytest.mark.parametrize("softmax", ALL, ids=lambda f: f"{f.name}:{f.shift}")


def test_levels() -> None:
    assert [f.top for f in LOGS] == [4, 64, 2**14]
    assert [f.is_wide for f in LOGS] == [False, False, True]
    for f in LOGS:
        assert len(f.levels) == 2**f.bits
    assert SoftmaxFormat.parse("twin4", 5).levels.tolist() == [*range(8), *range(32, 225, 32)]
    for f in TWINS:
        assert f.top <= 255 and len(f.levels) <= 2**f.bits
    for name in NAMES:
        assert SoftmaxFormat.parse(name).name == name


@pytest.mark.parametrize("name", ["log2_5", "log2_1", "twin2", "twin9", "log2", "uint4", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f'unknown softmax format "{name}"'):
        SoftmaxFormat.parse(name)


@pytest.mark.parametrize("softmax", LOGS, ids=lambda f: f.name)
def test_powers_by_loops(softmax: SoftmaxFormat) -> None:
    """q = rint(−log2 p), p relative to the largest; the last code is 0. Ties are left out."""
    got = weights_of(-BELOW, softmax)[0].tolist()
    last = 2**softmax.bits - 1
    for below, weight in zip(BELOW[0].tolist(), got, strict=True):
        log = below / math.log(2)
        if abs(log % 1 - 0.5) > 1e-5:
            q = min(last, math.floor(log + 0.5)) if log < 99 else last
            assert weight == (0 if q == last else softmax.top >> q)


@pytest.mark.parametrize("softmax", TWINS, ids=lambda f: f"{f.name}:{f.shift}")
def test_twin_is_the_nearest_level(softmax: SoftmaxFormat) -> None:
    codes = np.arange(softmax.top + 1)
    found = softmax.on_levels(codes)
    gaps = np.abs(codes[:, None] - softmax.levels)
    assert np.isin(found, softmax.levels).all()
    np.testing.assert_array_equal(np.abs(found - codes), gaps.min(-1))


@every
def test_weights_keep_their_bound(softmax: SoftmaxFormat) -> None:
    got = weights_of(-BELOW, softmax).astype(np.float64)
    below = BELOW.astype(np.float64)
    exact = np.exp(-below)
    bound = softmax.error_bound(exact, below)
    gap = np.abs(got - softmax.top * exact)
    assert (gap <= bound).all()
    assert (gap[bound > 0.01] / bound[bound > 0.01]).max() > 0.9, "the bound is near"
    assert np.isin(got, softmax.levels).all() and got[0, 0] == softmax.top
    last = np.flatnonzero(got[0] > softmax.levels[-2] - 0.5)[-1]
    got[0, last // 2] = softmax.levels[1]  # of a weight that is near the largest
    assert (np.abs(got - softmax.top * exact) > bound).any()


@every
def test_rows_that_see_nothing_weigh_nothing(softmax: SoftmaxFormat) -> None:
    scores = np.float32([[-np.inf, np.nan, -np.inf], [np.inf, 3, -np.inf], [-1e4, -1e4, -2e4]])
    assert weights_of(scores, softmax).tolist() == [
        [0, 0, 0],
        [softmax.top, 0, 0],
        [softmax.top, softmax.top, 0],
    ]
    assert weights_of(np.zeros((2, 0), np.float32), softmax).shape == (2, 0)


@pytest.mark.parametrize("softmax", LOGS, ids=lambda f: f.name)
def test_sums_are_shifts(softmax: SoftmaxFormat) -> None:
    """Σ weight · v is Σ v << (Q − q): exact, and rounded in two planes where it is wide."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, (5, 300)).astype(np.float32)
    values = rng.integers(-255, 256, (300, 7))
    weights = weights_of(scores, softmax)
    shifts = [[int(w).bit_length() - 1 for w in row] for row in weights]
    sums = [
        [sum(int(v) << s for v, s in zip(each, row, strict=True) if s >= 0) for each in values.T]
        for row in shifts
    ]
    found = weighted_sums(weights, values.astype(np.float64), softmax)
    largest = 255.0 * weights.sum(-1, keepdims=True)
    assert (np.abs(found - np.array(sums)) <= 2.0**-23 * largest).all()
    if not softmax.is_wide:
        np.testing.assert_array_equal(found, np.float32(sums))


@every
def test_attention_of_real_numbers_is_as_near_as_the_bound_says(softmax: SoftmaxFormat) -> None:
    rng, sizes = np.random.default_rng(0), ((2, 9, 16), (2, 16, 40), (2, 40, 6))
    q, k, v = (rng.integers(0, 256, size, np.uint8) for size in sizes)
    numbers = Numbers(121, 131, 117, 3e-4, 0.9, softmax)
    scores = scores_of(q, k, None, numbers).astype(np.float64)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    real = shares @ (v.astype(np.float64) - 117) * 0.9 + 100
    # and roundings to f32: of both planes, their sum, the quotient, the product
    bound = rounding_bound(q, k, v, None, numbers) + 0.5 + 255 * 2.0**-21
    found = qattention(q, k, v, None, numbers, 100)
    inside = (real > 0) & (real < 255)
    assert (np.abs(found - real) <= bound)[inside].all()
    broken = np.where(found < 128, found + 127, found - 127)
    assert (np.abs(broken - real) > bound)[inside].any()


def maps() -> list[NDArray[np.float64]]:
    """The probabilities [64, 4, 17, 17] of both layers of vit_digits on images of its test set."""
    model = onnx.load(vit_digits.path())
    names = [n.output[0] for n in model.graph.node if n.op_type == "Softmax"]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), session_options(1))
    found = session.run(names, {"image": digits.data("test")[0][:64]})
    return [each.astype(np.float64) for each in found]


def divergence(p: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """KL(q ‖ p) in nats, the mean over rows; of weights q = weights ÷ their sum, which may be 0."""
    q = weights / weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(q > 0, q * np.log(q / p), 0).sum(-1).mean())


def test_real_maps_lose_less_than_uniform_codes_of_as_many_bits() -> None:
    """What FQ-ViT and PTQ4ViT say of 4 bits, whose uniform codes are of the probability itself.

    The grid relative to the largest is nearer than FQ-ViT's, 2^−q of the probability. Uniform codes
    that are relative to the largest, too, are another rival, which log2 does not beat everywhere.
    """
    for p in maps():
        with np.errstate(divide="ignore"):
            scores = np.log(p).astype(np.float32)
        uniform = divergence(p, np.rint(p * 15))
        of_paper = divergence(p, 2.0 ** -np.clip(np.rint(-np.log2(p)), 0, 15))
        log2 = divergence(p, weights_of(scores, SoftmaxFormat.parse("log2_4")))
        shifts = SoftmaxFormat.parse("twin4").shifts
        found = [weights_of(scores, SoftmaxFormat.parse("twin4", s)) for s in shifts]
        errors = [np.square(w / w.sum(-1, keepdims=True) - p).sum() for w in found]
        twin = divergence(p, found[int(np.argmin(errors))])
        assert twin < log2 < of_paper < uniform / 5
        top = p.max(-1, keepdims=True)
        assert twin < divergence(p, np.rint(p / top * 15))
