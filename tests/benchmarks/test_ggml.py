# SPDX-License-Identifier: Apache-2.0
"""The peer llama.cpp really multiplies: against its dequantized weights in NumPy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.ggml import TYPES, Products, library_folder
from benchmarks.kernel_llama import shared

K, N = 512, 72
THREADS = (1, 2)
pytestmark = pytest.mark.skipif(library_folder() is None, reason="llama-cpp-python is missing")


def product(kind: str, m: int, threads: int) -> tuple[NDArray, NDArray, NDArray]:
    """x [M, K] of ±1, weight [N, K] as ggml reads it, y [M, N] of ggml."""
    rng, ggml = np.random.default_rng(m), shared(threads)
    rows = ggml.quantize(kind, rng.standard_normal((N, K), dtype=np.float32))
    x = rng.choice(np.array([-1, 1], np.float32), (m, K))
    run = Products(ggml, kind, rows, x)
    run()
    return x.astype(np.float64), ggml.dequantize(kind, rows, K).astype(np.float64), run.y.copy()


def bound(x: NDArray, weight: NDArray) -> NDArray:
    """Of |y − x · weightᵀ|.

    ±1 are the code ±127 times a scale, which ggml rounds to 11 bits for some types (Q8_0). The sums
    are of K terms in float32, in two parts (codes and smallest values) whose terms are at most
    |w| + max |w|.
    """
    rounding = 2.0**-11 * (np.abs(x) @ np.abs(weight).T)
    largest = np.abs(weight) + np.abs(weight).max(axis=1, keepdims=True)
    return rounding + 2 * K * 2.0**-24 * (np.abs(x) @ largest.T)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "f32"])
def test_product_is_that_of_the_dequantized_weights(kind: str, m: int, threads: int) -> None:
    x, weight, y = product(kind, m, threads)
    assert (np.abs(y - x @ weight.T) <= bound(x, weight)).all()
    # One weight of the other sign must not pass.
    where = np.argmax(np.abs(weight[0]))
    weight[0, where] *= -1
    assert (np.abs(y - x @ weight.T)[:, 0] > bound(x, weight)[:, 0]).all()


def test_a_second_run_gives_the_same() -> None:
    ggml, rng = shared(1), np.random.default_rng(0)
    rows = ggml.quantize("q4_0", rng.standard_normal((N, K), dtype=np.float32))
    run = Products(ggml, "q4_0", rows, rng.standard_normal((2, K), dtype=np.float32))
    run()
    first = run.y.copy()
    run.y[:] = 0
    run()
    assert first.any()
    np.testing.assert_array_equal(run.y, first)
