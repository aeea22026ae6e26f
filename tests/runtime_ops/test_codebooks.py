# SPDX-License-Identifier: Apache-2.0
"""QMatMul and Dequantize of blocks with levels of their own, N14 and N44."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from qcompile import runtime_ops
from qcompile.formats import Format
from qcompile.formats.palette import PALETTES
from qcompile.layouts.n16k4 import chunk_columns
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one
from tests.runtime_ops.products import assert_within
from tests.runtime_ops.single_op import random_weight
from tests.runtime_ops.test_library import in_process
from tests.runtime_ops.test_refusals import AGAIN, refusal

FORMATS = pytest.mark.parametrize("format", PALETTES.values(), ids=str)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(13)


@FORMATS
@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 131])
def test_sizes(rng: np.random.Generator, format: Format, n: int) -> None:
    for i, k in enumerate((1, 3, 4, 5, 15, 16, 17, 61, 64, 67, 129)):
        weight = random_weight(rng, n, k, format, 0, "f16" if i % 2 else "f32")
        for rows in (1, 2, 3, 4, 5, 9, 17):
            assert_within(*products.matmul_real(rng, weight, (rows,), None))


@FORMATS
@pytest.mark.parametrize("scale_format", ["f16", "f32"])
def test_blocks(rng: np.random.Generator, format: Format, scale_format: str) -> None:
    """Whole blocks, short ones, and blocks of an odd number of chunks."""
    chunk = chunk_columns(format)
    for k, size in (
        *((96, 32), (3 * chunk, chunk), (7 * chunk - 1, 3 * chunk), (5 * chunk + 1, 5 * chunk)),
        *((600, 160), (1300, 0), (1063, 1056)),  # beyond what is unpacked, or passed, at a time
    ):
        weight = random_weight(rng, 80, k, format, size, scale_format)
        for rows in (1, 3, 4, 20):
            assert_within(*products.matmul_real(rng, weight, (rows,), None))


@FORMATS
def test_threads_and_odd_levels(rng: np.random.Generator, format: Format) -> None:
    """Levels that are equal, tiny, zero or large mean what they are."""
    weight = random_weight(rng, 200, 320, format, 64, "f32")
    assert weight.levels is not None
    weight.levels[::3, 1] = 0
    weight.levels[1::3, 2] *= np.float32(1e-39)
    weight.levels[2::3, 3] *= np.float32(1e20)
    assert_within(*products.matmul_real(rng, weight, (3, 133), None, threads=2))
    assert_within(*products.matmul_real(rng, weight, (1,), None, threads=2))


@FORMATS
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_tolerance_sees_one_code_and_one_level(
    rng: np.random.Generator, format: Format, rows: int
) -> None:
    weight = random_weight(rng, 70, 128, format, 64, "f16")
    assert weight.levels is not None
    codes, levels = weight.codes.copy(), weight.levels.copy()
    codes[66, 77] ^= 1
    levels[66, 1, weight.codes[66, 77]] += np.float32(0.01)
    off = replace(weight, levels=levels, scale_format="f32")
    for other in (replace(weight, codes=codes), off):
        state = rng.bit_generator.state
        got, _, bound = products.matmul_real(rng, weight, (rows,), None)
        rng.bit_generator.state = state
        _, expected, _ = products.matmul_real(rng, other, (rows,), None)
        assert (np.abs(got - expected) > bound).any()


def test_infinity_and_nan_stay_in_their_row(rng: np.random.Generator) -> None:
    weight = random_weight(rng, 33, 40, PALETTES["palette4"], 0, "f16")
    x = rng.standard_normal((3, 40)).astype(np.float32)
    x[1, 7], outputs = np.nan, [(TensorProto.FLOAT, 2)]
    given = one.weight_attributes(weight) | {"activation": "f32"}
    got = one.run("QMatMul", [x, one.pack(weight)], given, outputs)[0]
    assert np.isnan(got[1]).all() and np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512vnni"])
def test_every_instruction_set(isa: str) -> None:
    if isa not in runtime_ops.supported_isas():
        pytest.skip(f"this processor has no {isa}")
    chosen = "sizes and 17 or blocks or tolerance or odd"
    done = in_process(["-m", "pytest", "-q", "-x", __file__, "-k", chosen], isa)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@FORMATS
@pytest.mark.parametrize("block", [0, 32])
def test_dequantize(rng: np.random.Generator, format: Format, block: int) -> None:
    weight = random_weight(rng, 7, 75, format, block, "f32")
    given = {"bits": format.bits, "is_signed": 0, "has_codebook": 1, "block_size": block}
    given |= {"granularity": "block", "axis": 1} if block else {"granularity": "axis", "axis": 0}
    inputs = [weight.codes.astype(np.int8), weight.levels]
    got = one.run("Dequantize", inputs, given, [(TensorProto.FLOAT, 2)])[0]
    np.testing.assert_array_equal(got, weight.decode())
    inputs[1] = weight.levels[:, :, :-1]
    count, needed = inputs[1].size, weight.levels.size
    assert refusal("Dequantize", inputs, given, [(TensorProto.FLOAT, 2)]) == (
        f'Dequantize "node": levels have {count} elements; codes [7, 75] need {needed} '
        "(docs/ops.md: [rows, blocks, 2^bits] floats). Correct the graph."
    )


ONLY = "docs/layouts.md: n16k4c/1 holds levels of every block, and nothing else"
PLAIN = "docs/ops.md: 1 to 4 bits without sign, zero point and table, levels of f16 or f32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "n16k4/1"}, f"has_codebook = 1 in layout n16k4/1 ({ONLY}). {AGAIN}"),
        ({"has_codebook": 0}, f"has_codebook = 0 in layout n16k4c/1 ({ONLY}). {AGAIN}"),
        (
            {"activation": "dynamic", "activation_bits": 8},
            'activation = "dynamic" with levels of every block (docs/layouts.md: those of n16k4c/1 '
            "are floats, which integer products cannot read). Use activation f32, or another "
            "format.",
        ),
        (
            {"scale_format": "bf16"},
            "has_codebook with bits = 4, is_signed = 0, has_zero_point = 0, a table of 0, "
            f"scale_format = bf16, tensor_scale = 1.000000 ({PLAIN}). {AGAIN}",
        ),
        (
            {"bits": 5},
            "has_codebook with bits = 5, is_signed = 0, has_zero_point = 0, a table of 0, "
            f"scale_format = f16, tensor_scale = 1.000000 ({PLAIN}). {AGAIN}",
        ),
        (
            {"table": [1] * 16},
            "has_codebook with bits = 4, is_signed = 0, has_zero_point = 0, a table of 16, "
            f"scale_format = f16, tensor_scale = 1.000000 ({PLAIN}). {AGAIN}",
        ),
        (
            {"scale_format": "f32"},
            "W has 3072 bytes; n16k4c/1 of N = 20, K = 64, palette4 (4 bits), block_size 32 needs "
            f"5120 (docs/layouts.md). {AGAIN}",
        ),
    ],
)
def test_refusals(rng: np.random.Generator, changes: dict, message: str) -> None:
    weight = random_weight(rng, 20, 64, PALETTES["palette4"], 32, "f16")
    packed, outputs = one.pack(weight), [(TensorProto.FLOAT, 2)]
    given = one.weight_attributes(weight) | {"activation": "f32"}
    inputs = [np.zeros((2, 64), np.float32), packed]
    assert refusal("QMatMul", inputs, given | changes, outputs) == f'QMatMul "node": {message}'


def test_a_damaged_weight_and_other_ops_are_refused(rng: np.random.Generator) -> None:
    weight = random_weight(rng, 20, 64, PALETTES["palette4"], 32, "f16")
    given, x = one.weight_attributes(weight), np.zeros((2, 64), np.float32)
    short = [x, one.pack(weight)[:-1]]
    found = refusal("QMatMul", short, given | {"activation": "f32"}, [(TensorProto.FLOAT, 2)])
    assert "W has 3071 bytes; n16k4c/1 of N = 20, K = 64" in found and "needs 3072" in found
    rows = [np.zeros(3, np.int64), one.pack(weight)]
    assert refusal("QGather", rows, given, [(TensorProto.FLOAT, 2)]) == (
        'QGather "node": layout n16k4c/1 (docs/ops.md: any but kc/1 and n16k4c/1). Pack the model '
        "again with this version of qcompile."
    )
