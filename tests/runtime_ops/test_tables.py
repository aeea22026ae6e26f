# SPDX-License-Identifier: Apache-2.0
"""Tables beyond int8 and 16 entries, special values, scales of every format: N6, N10 … N17."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import Format, get
from qcompile.formats.bitmod import BITMOD, BITMOD3, BITMOD4
from qcompile.layouts.n16k4 import chunk_columns
from qcompile.layouts.scales import SIZES
from qcompile.numerics.conv import Window
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one
from tests.runtime_ops.products import assert_within
from tests.runtime_ops.single_op import random_weight
from tests.runtime_ops.test_refusals import AGAIN, matmul_case, refusal

SCALES = [name for name in SIZES if name != "none"]
WINDOW = Window((3, 3), (1, 2), (1, 1, 0, 1))


@functools.cache
def table(bits: int, largest: int) -> Format:
    """A table whose ends are -largest − 1 and largest, the rest in no order."""
    inner = np.random.default_rng(bits).integers(-largest - 1, largest + 1, 2**bits)
    inner[0], inner[-1] = -largest - 1, largest
    return Format(f"table{bits}_{largest}", bits, True, tuple(inner.tolist()))


# Up to 32639 leaves room for a byte of x in 16 bits, which many rows of some sets make use of.
WIDE = [table(bits, 32638) for bits in range(1, 9)] + [table(4, 200), table(6, 128)]
WIDE += [table(bits, 32767) for bits in (1, 4, 8)] + [table(3, 32639)]
NARROW = [table(bits, 127) for bits in range(5, 9)] + [table(6, 31)]
EVERY = [*WIDE, *NARROW, *BITMOD]


def unit(format: Format) -> float:
    """A scale of the tensor by which results of a table lie within the bounds of the clip."""
    return 1 / float(np.abs(format.values.astype(np.int64)).max())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize("format", EVERY, ids=str)
def test_static_codes_floats_and_sums(rng: np.random.Generator, format: Format) -> None:
    for n, k, rows in [
        (1, 5, 1),
        (17, 37, 3),
        (65, 64, 13),
        (64, 72, 1),
        (128, 96, 4),
        (80, 61, 5),
    ]:
        weight = random_weight(rng, n, k, format, 0, "none")
        np.testing.assert_array_equal(*products.matmul_static(rng, weight, (rows,)))
        np.testing.assert_array_equal(*products.matmul_scaled(rng, weight, (rows,)))
        for got, expected in products.matmul_dyadic(rng, weight, (rows,)):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("format", EVERY, ids=str)
@pytest.mark.parametrize("bits", [8, 3, None])
def test_blocks(rng: np.random.Generator, format: Format, bits: int | None) -> None:
    chunk = chunk_columns(format)
    size = -(-32 // chunk) * chunk
    for i, (k, block) in enumerate(
        [(96, 0), (4 * size, size), (2 * size + chunk - 1, size), (7, 0)]
    ):
        weight = random_weight(rng, 80, k, format, block, SCALES[i], tensor_scale=unit(format))
        for rows in (1, 2, 5, 17):
            assert_within(*products.matmul_real(rng, weight, (rows,), bits))


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize(
    "specials", [(7,), (-127, 127), (-9, -3, 3, 9), (-9, -3, 0, 3, 9)], ids=len
)
def test_few_and_many_special_values(
    rng: np.random.Generator, bits: int, specials: tuple[int, ...]
) -> None:
    """Up to four share the lookup of the code; any code may be the special one."""
    values = tuple(rng.integers(-127, 128, 2**bits).tolist())
    for code in (0, 2**bits - 1, int(rng.integers(2**bits))):
        format = Format("special", bits, True, values, special_code=code, specials=specials)
        for n, k, block in ((64, 96, 32), (130, 72, 0), (80, 7, 0)):
            weight = random_weight(rng, n, k, format, block, "f16", tensor_scale=unit(format))
            for rows in (1, 2, 4, 7, 9):
                assert_within(*products.matmul_real(rng, weight, (rows,)))
            weight = random_weight(rng, n, k, format, 0, "none")
            np.testing.assert_array_equal(*products.matmul_static(rng, weight, (3,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"table": [1] * 16, "is_signed": 0, "has_special": 1, "specials": [1]},
            "has_special = 1 in layout n16k4/1 (docs/layouts.md: n16k4p/1 holds special values, "
            f"and nothing else). {AGAIN}",
        ),
        (
            {"layout": "n16k4p/1"},
            "has_special = 0 in layout n16k4p/1 (docs/layouts.md: n16k4p/1 holds special values, "
            f"and nothing else). {AGAIN}",
        ),
        (
            {"table": [2**63 - 1] * 16, "table_low": 1, "is_signed": 0},
            "table has 9223372036854775807 with table_low = 1 (docs/ops.md: their sum is an "
            f"int64). {AGAIN}",
        ),
        (
            {"table": [1] * 16, "is_signed": 0, "has_special": 1, "layout": "n16k4p/1"}
            | {"specials": [200]},
            "has_special with special_code = 0, 1 specials, a table of 16 (docs/ops.md: a table "
            f"of 3 or 4 bits, one of its codes, specials of -127 ... 127). {AGAIN}",
        ),
    ],
)
def test_refusals(changes: dict, message: str) -> None:
    inputs, attributes = matmul_case(**changes)
    got = refusal("QMatMul", inputs, attributes, [(TensorProto.FLOAT, 2)])
    assert got == f'QMatMul "node": {message}'


@pytest.mark.parametrize("bits", [3, 4])
def test_a_byte_that_is_no_special_value_is_refused(rng: np.random.Generator, bits: int) -> None:
    """In every panel and block; that of an output that only fills a tile up is not read."""
    format = {3: BITMOD3, 4: BITMOD4}[bits]
    weight = random_weight(rng, 150, 96, format, 32, "f16")
    attributes = one.weight_attributes(weight) | {"activation": "dynamic", "activation_bits": 8}
    packed, block = one.pack(weight), 16 * (1 + 4 * bits + 2)  # bytes of a tile
    x = rng.standard_normal((1, 96)).astype(np.float32)

    def message(at: int) -> str:
        broken = packed.copy()
        broken[at] = 0x55
        return refusal("QMatMul", [x, broken], attributes, [(TensorProto.FLOAT, 2)])

    for tiles, panel in ((4, 0), (4, 1), (2, 2)):
        for b in range(3):
            at = panel * 4 * block * 3 + b * tiles * block + 5
            found = f"special value 85 in block {b} of output {64 * panel + 5} "
            assert found in message(at)
    broken = packed.copy()
    broken[2 * 4 * block * 3 + 2 * 16 - 1] = 0x55  # output 159
    y = one.run("QMatMul", [x, broken], attributes, [(TensorProto.FLOAT, 2)])[0]
    assert np.array_equal(
        y, one.run("QMatMul", [x, packed], attributes, [(TensorProto.FLOAT, 2)])[0]
    )


@pytest.mark.parametrize("format", [*WIDE[:4], WIDE[7], *NARROW[2:4], *BITMOD], ids=str)
def test_conv(rng: np.random.Generator, format: Format) -> None:
    shape = (2, 7, 6)
    for channels, n, group, layout in [
        *((3, 5, 1, "n16k4/1"), (16, 70, 1, "n16k4/1"), (8, 34, 2, "n16k4/1")),
        *((17, 17, 17, "kc/1"), (33, 33, 33, "kc/1")),
    ]:
        k, full = 9 * channels // group, (*shape, channels)
        weight = random_weight(rng, n, k, format, 0, "none")
        given = weight, full, WINDOW, group, layout
        np.testing.assert_array_equal(*products.conv_static(rng, *given))
        np.testing.assert_array_equal(*products.conv_scaled(rng, *given))
        for got, expected in products.conv_dyadic(rng, *given):
            np.testing.assert_array_equal(got, expected)
        weight = random_weight(rng, n, k, format, 0, "bf16", tensor_scale=unit(format))
        assert_within(*products.conv_dynamic(rng, weight, full, WINDOW, group, layout))


@pytest.mark.parametrize("format", [WIDE[3], WIDE[7], BITMOD4], ids=str)
@pytest.mark.parametrize("rows", [1, 20])
def test_deep_extremes(rng: np.random.Generator, format: Format, rows: int) -> None:
    """Sums of ends over many columns: those of int16 leave int32 and saturate as N11 says."""
    weight = random_weight(rng, 80, 8191, format, 0, "none", extreme=True)
    np.testing.assert_array_equal(*products.matmul_static(rng, weight, (rows,)))
    np.testing.assert_array_equal(*products.matmul_scaled(rng, weight, (rows,)))
    weight = random_weight(
        rng, 80, 8191, format, 0, "f32", extreme=True, tensor_scale=unit(format) / 64
    )
    assert_within(*products.matmul_real(rng, weight, (rows,)))


@pytest.mark.parametrize("format", [WIDE[3], WIDE[7], table(4, 200)], ids=str)
@pytest.mark.parametrize("rows", [1, 6])
def test_every_code_at_one_end(rng: np.random.Generator, format: Format, rows: int) -> None:
    assert format.table is not None
    for code in (int(np.argmin(format.table)), int(np.argmax(format.table))):
        codes = np.full((80, 603), code, np.int16)
        weight = CodedWeight(codes, None, None, format, 0, "none")
        for end in (0, 255):
            x = np.full((rows, 603), end, np.uint8)
            np.testing.assert_array_equal(*products.matmul_scaled(rng, weight, (rows,), x))


def cancelling(rng: np.random.Generator) -> CodedWeight:
    """Values −1 … 1 in two planes: what the planes sum to almost cancels."""
    values = (-1, 0, 1, 30000)
    format = Format("small", 2, True, values)
    codes = rng.integers(0, 3, (64, 8192)).astype(np.int16)
    return CodedWeight(codes, np.full((64, 1), 0.125, np.float32), None, format)


@pytest.mark.parametrize("rows", [1, 9])
def test_planes_that_cancel(rng: np.random.Generator, rows: int) -> None:
    assert_within(*products.matmul_real(rng, cancelling(rng), (rows,)))


@pytest.mark.parametrize("scale_format", SCALES)
@pytest.mark.parametrize("name", ["int4", "uint8", "e2m1"])
def test_scale_formats(rng: np.random.Generator, scale_format: str, name: str) -> None:
    for n, tensor_scale in ((17, 1.0), (80, 0.37), (64, 3e-3)):
        weight = random_weight(rng, n, 96, get(name), 32, scale_format, tensor_scale=tensor_scale)
        for rows in (1, 3, 17):
            assert_within(*products.matmul_real(rng, weight, (rows,)))
            assert_within(*products.matmul_real(rng, weight, (rows,), None))


@pytest.mark.parametrize("scale_format", SCALES)
@pytest.mark.parametrize("format", [get("int4"), WIDE[3], BITMOD4], ids=str)
@pytest.mark.parametrize("layout", ["rows/1", "n16k4/1"])
def test_gather(rng: np.random.Generator, scale_format: str, format: Format, layout: str) -> None:
    weight = random_weight(rng, 80, 96, format, 32, scale_format, tensor_scale=0.37)
    indices = rng.integers(-80, 80, (3, 5))
    attributes = one.weight_attributes(weight, layout)
    inputs = [indices, one.pack(weight, layout)]
    got = one.run("QGather", inputs, attributes, [(TensorProto.FLOAT, 3)])[0]
    np.testing.assert_array_equal(got, weight.decode()[indices])


def test_a_table_of_any_integers_with_float_activations(rng: np.random.Generator) -> None:
    """Integers that float32 holds, beyond int16: exact decode in float products and gathers."""
    values = (rng.integers(-(2**24), 2**24, 16) * 2**6).tolist()
    format = Format("any", 4, True, tuple(values))
    weight = random_weight(rng, 70, 64, format, 32, tensor_scale=unit(format))
    for rows in (1, 9):
        assert_within(*products.matmul_real(rng, weight, (rows,), None))


@pytest.mark.parametrize("format", [WIDE[3], BITMOD3, BITMOD4], ids=str)
@pytest.mark.parametrize("n", [33, 64])  # 64: a full panel, decoded on the way
def test_tolerance_sees_one_code(rng: np.random.Generator, format: Format, n: int) -> None:
    """One code changed to its neighbour, and one special value, is outside of the bound."""
    weight = random_weight(rng, n, 96, format, 32, "f16", tensor_scale=unit(format))
    codes = weight.codes.copy()
    codes[5, 7] ^= 1
    changed = [replace(weight, codes=codes)]
    if weight.zero_point is not None:
        assert (weight.codes[5, :32] == format.special_code).any()
        special = weight.zero_point.copy()
        own = special[5, 0]
        special[5, 0] = min(set(format.specials) - {own}, key=lambda value: abs(value - own))
        changed.append(replace(weight, zero_point=special))
    for other in changed:
        state = rng.bit_generator.state
        got, _, bound = products.matmul_real(rng, weight, (3,))
        rng.bit_generator.state = state
        _, expected, _ = products.matmul_real(rng, other, (3,))
        assert (np.abs(got - expected) > bound).any()


def test_special_codes_of_quantize_need_special_values():
    x, scale = np.zeros((2, 4), np.float32), np.float32(1)
    given = {"bits": 3, "is_signed": 0, "table": [0.0, 1, 2, 4, 0, -1, -2, -4], "axis": 0}
    given |= {"granularity": "tensor", "block_size": 0, "special_code": 4}
    outputs = [(TensorProto.INT8, 2), (TensorProto.FLOAT, 0)]
    rule = "(docs/ops.md: as many zero points or none; with a table none, or special values)"
    assert refusal("Quantize", [x, scale, None], given, outputs) == (
        'Quantize "node": scale has 1 and zero_point 0 elements; granularity tensor needs 1 scales '
        f"{rule}. Correct the graph."
    )
    got = refusal("Quantize", [x, scale, np.int8(3)], given | {"special_code": 8}, outputs)
    assert got == (
        'Quantize "node": special_code = 8 of 8 codes (docs/ops.md: one of a table\'s). Correct it.'
    )
