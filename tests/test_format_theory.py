# SPDX-License-Identifier: Apache-2.0
"""Predicted noise of formats against what codes lose ("INT v.s. FP", theorems 1 and 2)."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import truncnorm

from qcompile.errors import InputError
from qcompile.format_theory import (
    best_split,
    crossover,
    has_theory,
    predicted_noise,
    qsnr_db,
)
from qcompile.formats import get
from qcompile.formats.block import BLOCK_FORMATS, block_format
from qcompile.numerics.hadamard import fwht
from qcompile.observers.weight_range import code_weight
from qcompile.settle_formats import settled_spec
from qcompile.spec import QuantSpec

ROWS = 4000
INTEGERS = ["mxint8", "mxint6", "mxint4", "nvint4"]
CUTS = np.linspace(0.05, 12, 2000)  # of Gaussians, and their crest factors
FACTORS = CUTS / truncnorm.std(-CUTS, CUTS)
FLOATS = ["mxfp8", "mxfp6", "mxfp4", "nvfp4"]


def spec_of(name: str, block: int | None = None) -> QuantSpec:
    found = block_format(name)
    assert found.scale is not None and found.block_size is not None
    return QuantSpec(found.element, "block", 1, block or found.block_size, True, found.scale)


def measured(name: str, rows: NDArray[np.float64], block: int | None = None) -> float:
    """QSNR in dB of rows in blocks, with scales from the extremes."""
    weight = rows.astype(np.float32)
    coded = code_weight(weight, settled_spec(weight, spec_of(name, block)), "minmax")
    left = np.square(coded.decode().astype(np.float64) - weight).sum()
    return qsnr_db(float(left / np.square(weight.astype(np.float64)).sum()))


def blocks_of(crest: float, block: int, rows: int = ROWS, seed: int = 0) -> NDArray[np.float64]:
    """Gaussian blocks [rows, block] whose crest factor is exactly this; sizes of e^0 … e^2.

    Values beside the largest are cut where a Gaussian that is cut there has the same factor.
    """
    rng = np.random.default_rng(seed)
    cut = float(CUTS[np.argmin(np.abs(FACTORS - crest))])
    ends = ndtr([-cut, cut])
    part = ndtri(rng.uniform(*ends, (rows, block - 1)))
    energy = np.square(part).sum(1, keepdims=True)
    largest = crest * np.sqrt(energy / (block - crest**2))
    part = np.clip(part, -largest, largest)
    sign = rng.choice([-1.0, 1.0], (rows, 1))
    return np.concatenate([sign * largest, part], 1) * np.exp(rng.uniform(0, 2, (rows, 1)))


def predicted(name: str, crest: float, block: int | None = None) -> float:
    spec = spec_of(name, block)
    noise = predicted_noise(spec.format, spec.scale_format, spec.block_size, np.array([crest]))
    return qsnr_db(float(noise[0]))


@pytest.mark.parametrize("share", [0.2, 0.25, 0.35, 0.55])  # of a block's energy in one value
@pytest.mark.parametrize("name", INTEGERS + FLOATS)
def test_the_prediction_is_what_codes_lose(name: str, share: float) -> None:
    crest = (share * spec_of(name).block_size) ** 0.5
    most = 1.0 if name in INTEGERS else 1.5  # dB, the bounds of the paper's own figure
    found = measured(name, blocks_of(crest, spec_of(name).block_size))
    assert abs(found - predicted(name, crest)) <= most


@pytest.mark.parametrize("name", ["mxint4", "nvfp4"])
def test_one_bit_less_is_another_prediction(name: str) -> None:
    """Twin of the test above: codes of the next smaller format leave the bound."""
    smaller = {"mxint4": "int3/e8m0/32", "nvfp4": "e2m0/ue4m3/16"}[name]
    found = measured(smaller, blocks_of(2.5, spec_of(name).block_size))
    assert abs(found - predicted(name, 2.5)) > 1.5


CROSSOVERS = [  # of the paper's figure, and how far a simulation with real scales may be off
    *(("nvint4", "nvfp4", 16, 2.39, 0.35), ("mxint4", "mxfp4", 32, 2.04, 0.35)),
    ("mxint6", "mxfp6", 32, 1.96, 0.2),
]


@pytest.mark.parametrize(("one", "other", "block", "published", "most"), CROSSOVERS)
def test_crossovers(one: str, other: str, block: int, published: float, most: float) -> None:
    pair = [(spec_of(n).format, spec_of(n).scale_format) for n in (one, other)]
    assert abs(crossover(pair[0], pair[1], block) - published) <= most
    low, high = 1.6, 3.5
    for _ in range(8):
        middle = (low + high) / 2
        rows = blocks_of(middle, block, 2000)
        low, high = (middle, high) if measured(one, rows) > measured(other, rows) else (low, middle)
    assert abs(low - published) <= most


def test_eight_bits_cross_where_few_blocks_are() -> None:
    pair = [(spec_of(n).format, spec_of(n).scale_format) for n in ("mxint8", "mxfp8")]
    assert 6 < crossover(pair[0], pair[1], 64) < 8
    rows = blocks_of(6.0, 64)
    assert measured("mxint8", rows, 64) > measured("mxfp8", rows, 64)


def test_normal_tensors() -> None:
    rows = np.random.default_rng(1).standard_normal((2000, 256))
    expected = {"mxint8": 41.6, "mxfp8": 31.5, "mxint6": 29.4, "mxfp6": 31.0}
    expected |= {"mxint4": 16.8, "mxfp4": 18.7, "nvint4": 21.3, "nvfp4": 20.4}
    assert {n: round(measured(n, rows), 1) for n in expected} == pytest.approx(expected, abs=0.6)


def test_a_rotation_turns_the_order_of_heavy_tails() -> None:
    rows = np.random.default_rng(2).standard_t(3, (4000, 256))
    turned = fwht(rows.reshape(-1, 32)).reshape(rows.shape)
    assert measured("nvint4", rows) < measured("nvfp4", rows) - 1
    assert measured("nvint4", turned) > measured("nvfp4", turned) + 1


def test_half_the_codes_of_e1m2_are_int4() -> None:
    rows = np.random.default_rng(3).standard_normal((64, 64))
    assert measured("e1m2/e8m0/32", rows) == measured("mxint4", rows)


def test_every_named_block_format_of_the_paper_has_a_theorem() -> None:
    assert all(has_theory(spec_of(n).format) for n in INTEGERS + FLOATS)
    assert set(INTEGERS + FLOATS) <= set(BLOCK_FORMATS)
    with pytest.raises(InputError, match=r"^nf4: the theorems are about signed integers"):
        predicted_noise(get("nf4"), "f16", 32, np.ones(1))


def test_the_best_split_is_the_largest_of_all() -> None:
    for bits in range(4, 17):
        law = {
            (e, bits - 1 - e): (e + 0.5) ** 3.1926 * (bits - 0.5 - e) ** 2.9543
            for e in range(1, bits)
        }
        assert best_split(bits) == max(law, key=law.__getitem__)
    with pytest.raises(InputError, match=r"^a float of 2 bits: at least 3 are needed$"):
        best_split(2)
