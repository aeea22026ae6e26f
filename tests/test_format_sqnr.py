# SPDX-License-Identifier: Apache-2.0
"""The listed SQNR is what is measured, and as exact as it is said to be."""

import numpy as np
import pytest

from qcompile.format_listing import listed
from qcompile.format_sqnr import DISTRIBUTIONS, SQNR_DB, measured
from qcompile.formats import DECODED_ONLY, FORMATS, IROOTS, PALETTES, get
from qcompile.formats.block import BLOCK_FORMATS, block_format
from qcompile.formats.onnx_types import FORMAT_OF_TYPE

NAMES = (*FORMATS, *BLOCK_FORMATS, IROOTS)
LARGEST_DEVIATION = {"gauss": 0.1, "laplace": 0.15, "t3": 0.7}


def test_every_listed_format_has_a_row() -> None:
    assert tuple(SQNR_DB) == NAMES
    assert [row["name"] for row in listed()] == [*NAMES, *PALETTES, *DECODED_ONLY]


@pytest.mark.parametrize("name", NAMES)
def test_measured_again(name: str) -> None:
    found = measured(name)
    for listed_db, kind in zip(SQNR_DB[name], DISTRIBUTIONS, strict=True):
        assert abs(found[kind] - listed_db) <= 0.05 + 1e-3, kind  # rounded to 0.1 dB


@pytest.mark.parametrize("name", ["int4", "uint4", "nf4", "lloyd4", "mxfp4", "int8"])
def test_the_deviation_of_a_draw(name: str) -> None:
    draws = [measured(name, seed) for seed in range(10)]
    for kind, most in LARGEST_DEVIATION.items():
        assert np.std([d[kind] for d in draws], ddof=1) <= most, kind


def test_what_is_decoded_only_has_no_kernels() -> None:
    for row in listed():
        is_decoded = row["name"] in DECODED_ONLY
        assert bool(row["kernels"]) != is_decoded
        assert ("16 bits, and kernels run at most 8" in row.get("reason", "")) == is_decoded


def test_bits_with_scales() -> None:
    """A scale of 8 bits: a quarter of a bit in blocks of 32, half of one in blocks of 16."""
    found = {row["name"]: row["bits_with_scales"] for row in listed()}
    for name in BLOCK_FORMATS:
        form = block_format(name)
        kept = 0.25 if form.block_size == 32 else 0.5
        assert found[name] == form.element.bits + kept, name
    assert found["int4"] == 4 + 16 / 32 and found["uint4"] == 4 + 24 / 32  # f16, a zero point
    assert found["bitmod3"] == 3 + 24 / 128 and found["ternary"] == pytest.approx(1.7)
    assert found["palette4"] == 4 + 16 * 16 / 2**12  # 16 levels of f16 in a row of 4096
    assert found[IROOTS] == pytest.approx(2 + 2 * 16 / 2**12, abs=0.02)


def test_onnx_types() -> None:
    found = {row["name"]: row["onnx"] for row in listed()}
    assert {name: found[name] for name in FORMAT_OF_TYPE.values()} == {
        name: kind for kind, name in FORMAT_OF_TYPE.items()
    }
    assert found["mxfp6"] == "FLOAT6E2M3, FLOAT8E8M0" and found["bfp8"] is None
    assert found["nvfp4"] == "FLOAT4E2M1, FLOAT8E4M3FN"
    assert get("e2m3").bits == 6 and found["posit16_1"] is None
