# SPDX-License-Identifier: Apache-2.0
"""SLiM-Quant: its α against every α, and heavy tails, where the extremes lose."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.formats import get
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers.slim import slim_range
from qcompile.observers.weight_range import code_weight
from qcompile.spec import QuantSpec

NAMES = ("int2", "int3", "int4", "int8", "balanced2", "e2m1")


def heavy(seed: int, shape: tuple[int, int] = (64, 512)) -> NDArray[np.float32]:
    """Student's t with three degrees of freedom."""
    return np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)


def error(weight: NDArray, alpha: float, name: str) -> float:
    """Σ (Ŵ − W)² ÷ Σ W²."""
    format = get(name)
    scale = np.float32(alpha / format.absmax(symmetric=True))
    left = dequantize(quantize(weight, scale, 0, format), scale, 0, format) - weight
    return float(np.square(left).sum(dtype=np.float64) / np.square(weight).sum(dtype=np.float64))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_the_error_is_within_a_hundredth_of_the_least(name: str, seed: int) -> None:
    """The check of the paper: coarse and fine steps find what every step finds."""
    weight = heavy(seed)
    highest = float(np.abs(weight).max())
    every = [error(weight, highest * share, name) for share in np.linspace(0.004, 1, 250)]
    found = error(weight, slim_range(weight, get(name)), name)
    assert found <= 1.01 * min(every)
    assert error(weight, highest, name) > 1.01 * min(every) or name == "int8"


def test_heavy_tails_gain_most() -> None:
    spec = QuantSpec.parse("int4/tensor/sym/f32")
    weight = heavy(5, (256, 256))

    def left(method: str) -> float:
        off = code_weight(weight, spec, method).decode() - weight
        return float(np.square(off).sum() / np.square(weight).sum())

    assert left("slim") < 0.2 * left("minmax")


def test_rows_and_blocks_share_one_scale() -> None:
    weight = heavy(1, (6, 70))
    for text in ("int4/axis(axis=0)/sym/f32", "int4/block(axis=1,size=32)/sym/f16"):
        coded = code_weight(weight, QuantSpec.parse(text), "slim")
        assert coded.scale.shape == (6, coded.num_blocks)
        assert np.unique(coded.scale).size == 1
    odd = QuantSpec.parse("uint4/block(axis=1,size=32)/asym/f16")
    assert np.array_equal(
        code_weight(weight, odd, "slim").codes, code_weight(weight, odd, "mse").codes
    )


def test_nothing_to_see() -> None:
    spec = QuantSpec.parse("int4/axis(axis=0)/sym/f32")
    for shape in ((2, 3), (2, 0)):
        coded = code_weight(np.zeros(shape, np.float32), spec, "slim")
        assert (coded.codes == 0).all()
        assert (coded.scale == 1).all()
