# SPDX-License-Identifier: Apache-2.0
"""code_step: the few weights of the largest gradients move; small problems come out the best."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_step import code_step
from qcompile.spec import QuantSpec
from tests.passes.transform.test_gptq import SPECS, correlated

COUNT = 7


@pytest.mark.parametrize("text", [*SPECS, "balanced2/axis(axis=0)/sym/f32"])
def test_those_that_gain_most_move_and_the_others_stay(text: str) -> None:
    rng = np.random.default_rng(0)
    weight, gradient = rng.standard_normal((2, 6, 40)).astype(np.float32)
    curvature = rng.uniform(0.1, 1, (6, 40)).astype(np.float32)
    coded = code_weight(weight, QuantSpec.parse(text), "minmax")

    def bound(found: CodedWeight) -> NDArray[np.float64]:
        change = found.decode().astype(np.float64) - coded.decode()
        return gradient * change + curvature * change**2 / 2

    few, all_of_them = (code_step(coded, gradient, curvature, n) for n in (COUNT, 240))
    moved = few.codes != coded.codes
    assert moved.sum() == COUNT
    assert np.array_equal(few.codes[moved], all_of_them.codes[moved])
    every = bound(all_of_them)
    assert every.max() <= 0
    assert every[moved].max() <= every[~moved].min()
    for code in coded.format.codes.tolist():  # no other code has a smaller bound
        low, high = coded.format.quantized_range(symmetric=coded.zero_point is None)
        if low <= code <= high:
            other = replace(coded, codes=np.full((6, 40), code, np.int16))
            assert (every <= bound(other) + 2.0**-20).all()


def test_scales_of_either_sign_and_nothing_to_do() -> None:
    spec = QuantSpec.parse("int2/axis(axis=0)/sym/f32")
    codes = np.int16([[-2, -1, 0, 1], [-2, -1, 0, 1]])
    scale = np.float32([[0.5], [-0.5]])
    coded = CodedWeight(codes, scale, None, spec.format)
    one, up = np.ones((2, 4), np.float32), np.full((2, 4), -0.5, np.float32)
    found = code_step(coded, up, one, 8)
    assert found.codes.tolist() == [[-1, 0, 1, 1], [-2, -2, -1, 0]]
    assert code_step(coded, up, 0 * one, 8) is coded
    assert code_step(coded, up, 3 * one, 8) is coded  # a level costs more than it gives
    assert code_step(coded, 2 * up, one, 8).codes.tolist() == [[0, 1, 1, 1], [-2, -2, -2, -1]]
    ends = replace(coded, codes=np.full((2, 4), 1, np.int16), scale=np.abs(scale))
    assert code_step(ends, up, one, 8) is ends


def rng_problem(seed: int) -> tuple[NDArray[np.float32], CodedWeight, NDArray[np.float64]]:
    """A weight [1, 8], its nearest codes of two bits and inputs that depend on each other."""
    weight = np.random.default_rng(seed).standard_normal((1, 8)).astype(np.float32)
    spec = QuantSpec.parse("int2/axis(axis=0)/sym/f32")
    coded = code_weight(weight, spec, "mse")
    return weight, coded, correlated(seed + 100, 8, 200)[:, 0].astype(np.float64)


def loss(weight: NDArray, coded: CodedWeight, x: NDArray) -> float:
    return float(np.square(x @ (coded.decode() - weight)[0]).sum())


def by_steps(weight: NDArray, coded: CodedWeight, x: NDArray) -> list[float]:
    """Losses of V steps that gain, each with fewer codes where the one before does not."""
    losses, count = [loss(weight, coded, x)], 4
    while count:
        hessian = 2 * x.T @ x
        slope = ((coded.decode() - weight) @ hessian).astype(np.float32)
        bend = np.diag(hessian)[None].astype(np.float32)
        found = code_step(coded, slope, bend, count)
        if loss(weight, found, x) < losses[-1]:
            coded = found
            losses.append(loss(weight, found, x))
        else:
            count //= 2
    return losses


def straight_through(weight: NDArray, coded: CodedWeight, x: NDArray, steps: int) -> float:
    """The last loss of latent weights that take the gradient of their codes."""
    latent, format = weight.astype(np.float64), coded.format
    low, high = format.quantized_range(symmetric=True)
    rate = 0.1 / np.linalg.eigvalsh(x.T @ x).max()
    for _ in range(steps):
        codes = np.clip(np.rint(latent / coded.scale), low, high).astype(np.int16)
        coded = replace(coded, codes=codes)
        latent -= rate * (coded.decode() - weight) @ (x.T @ x)
    return loss(weight, coded, x)


def test_small_problems_come_out_the_best_more_often_than_by_other_ways() -> None:
    """The check of the paper: more optima than straight-through weights and the nearest codes."""
    optima = {"pv": 0, "straight-through": 0, "nearest": 0}
    for seed in range(30):
        weight, coded, x = rng_problem(seed)
        every = np.array(list(itertools.product([-1, 0, 1], repeat=8)))
        errors = np.square((every * coded.scale - weight) @ x.T).sum(1)
        least = errors.min() * (1 + 2.0**-16)  # float32 reals
        losses = by_steps(weight, coded, x)
        assert losses == sorted(losses, reverse=True)
        optima["pv"] += losses[-1] <= least
        optima["straight-through"] += straight_through(weight, coded, x, len(losses) + 3) <= least
        optima["nearest"] += losses[0] <= least
    assert optima["pv"] > optima["straight-through"], optima
    assert optima["pv"] > optima["nearest"], optima
