# SPDX-License-Identifier: Apache-2.0
"""QMatMul and QGather of n16k4s and n16k4q on edges of tiles, chunks, blocks and formats."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import get
from qcompile.layouts import LAYOUTS, Shape
from qcompile.layouts.n16k4 import chunk_bytes
from qcompile.numerics import gather
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one
from tests.runtime_ops.products import assert_within

SPARSE, QUINTS = "n16k4s/1", "n16k4q/1"
KINDS = [(SPARSE, name) for name in ("int4", "uint4", "int3", "uint3", "e2m1", "balanced2")]
KINDS += [(QUINTS, "balanced2")]
EVERY = pytest.mark.parametrize("layout,name", KINDS)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def weight_of(rng, layout: str, name: str, *shape, **given) -> CodedWeight:
    """Random codes that the layout holds, for random_weight's arguments."""
    found = one.random_weight(rng, *shape[:2], get(name), *shape[2:], **given)
    if name == "balanced2":
        found = replace(found, codes=np.minimum(found.codes, 4))
    return one.sparse(rng, found) if layout == SPARSE else found


def chunk_of(layout: str, name: str) -> int:
    return 96 if layout == QUINTS else 32 if get(name).bits == 3 else 8


@EVERY
def test_static_codes_and_sums(rng, layout, name):
    chunk = chunk_of(layout, name)
    for n, k, rows in [(1, 5, 1), (17, chunk - 1, 3), (65, chunk + 1, 13), (64, 2 * chunk, 20)]:
        for with_zero_point in {False, not get(name).is_table}:
            given = layout, name, n, k, 0, "none"
            weight = weight_of(rng, *given, with_zero_point=with_zero_point)
            for product in (products.matmul_static, products.matmul_scaled):
                np.testing.assert_array_equal(*product(rng, weight, (rows,), layout=layout))
            for got, expected in products.matmul_dyadic(rng, weight, (rows,), layout=layout):
                np.testing.assert_array_equal(got, expected)


@EVERY
@pytest.mark.parametrize("bits", [8, 3, None])
def test_real_sizes(rng, layout, name, bits):
    chunk = chunk_of(layout, name)
    for n in (1, 15, 16, 17, 63, 64, 65, 131):
        for k in (1, 3, 4, 5, chunk - 1, chunk, chunk + 1, 3 * chunk + 7):
            weight = weight_of(rng, layout, name, n, k, 0, "f32")
            rows = (1, 2, 3, 4, 5, 9, 17)[(n + k) % 7]
            assert_within(*products.matmul_real(rng, weight, (rows,), bits, layout=layout))


@EVERY
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9, 33])
def test_blocks(rng, layout, name, rows):
    size = max(chunk_of(layout, name), 32)
    for k, block, scale_format in [
        *((3 * size, size, "f16"), (6 * size + 8, 2 * size, "f16")),
        *((size + 5, size, "f32"), (4 * size + 1, 4 * size, "f32")),
    ]:
        given = layout, name, 80, k, block, scale_format
        weight = weight_of(rng, *given, with_zero_point=not get(name).is_table)
        for bits in (8, None):
            assert_within(*products.matmul_real(rng, weight, (rows,), bits, layout=layout))


@EVERY
@pytest.mark.parametrize("rows", [1, 20])
def test_long_rows_of_one_end(rng, layout, name, rows):
    """Sums of one vector, as kernels hold them on the way, reach their limits nowhere else."""
    format, shape = get(name), (80, 17_001)
    ends = (format.code_min, format.code_max)
    if format.table is not None:
        ends = int(np.argmin(format.table)), int(np.argmax(format.table))
    x = np.zeros((rows, shape[1]), np.uint8)
    x[rows // 2 :] = 255
    for code in ends:
        weight = CodedWeight(np.full(shape, code, np.int16), None, None, format, 0, "none")
        weight = one.sparse(rng, weight) if layout == SPARSE else weight
        for given in (x, 255 - x):
            got, expected = products.matmul_scaled(rng, weight, (rows,), given, layout=layout)
            np.testing.assert_array_equal(got, expected)


def test_threads(rng):
    for layout, name in ((SPARSE, "int4"), (QUINTS, "balanced2")):
        weight = weight_of(rng, layout, name, 200, 480, 96, "f16")
        assert_within(*products.matmul_real(rng, weight, (3, 133), threads=2, layout=layout))


@EVERY
def test_gathered_rows(rng, layout, name):
    for n, k in [(1, 5), (65, 33), (130, 200)]:
        weight = weight_of(rng, layout, name, n, k, 0, "f16")
        indices = rng.integers(-n, n, 9)
        packed, given = one.pack(weight, layout), one.weight_attributes(weight, layout)
        got = one.run("QGather", [indices, packed, None], given, [(TensorProto.FLOAT, 2)])[0]
        np.testing.assert_array_equal(got, gather.qgather(weight, indices))


@EVERY
def test_one_changed_code_is_seen(rng, layout, name):
    weight = weight_of(rng, layout, name, 33, 96, 0, "none")
    row, column = 5, int(np.flatnonzero(weight.values()[5])[0])
    codes = weight.codes.copy()
    values = get(name).values
    others = [c for c in get(name).codes if values[c - get(name).code_min]]
    here = values[codes[row, column] - get(name).code_min]
    codes[row, column] = next(c for c in others if values[c - get(name).code_min] != here)
    state = rng.bit_generator.state
    got = products.matmul_dyadic(rng, weight, (3,), layout=layout)[1][0]
    rng.bit_generator.state = state
    changed = replace(weight, codes=codes)
    assert (got != products.matmul_dyadic(rng, changed, (3,), layout=layout)[1][1]).any()


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("activation", ["f32", "dynamic"])
def test_masks_of_a_damaged_file_reach_nothing(rng, rows, activation):
    """Masks of all bits and of none: any numbers, no read beyond the end (test_guarded.py)."""
    weight = weight_of(rng, SPARSE, "uint4", 80, 96, 0, "f32")
    packed = one.pack(weight, SPARSE)
    given = one.weight_attributes(weight, SPARSE) | {"activation": activation}
    given |= {"activation_bits": 8} if activation == "dynamic" else {}
    x, fields = rng.standard_normal((rows, 96)).astype(np.float32), chunk_bytes(get("uint4")) // 2
    for bits in (0, 255):
        broken, first = packed.copy(), 0
        for tiles in (4, 1):
            chunks = broken[first : first + 12 * tiles * (fields + 16)].reshape(-1, fields + 16)
            chunks[:, fields:] = bits
            first += chunks.size + tiles * 16 * 4
        y = one.run("QMatMul", [x, broken, None, None], given, [(TensorProto.FLOAT, 2)])[0]
        assert y.shape == (rows, 80) and np.isfinite(y).all()
        y = one.run("QGather", [np.arange(80), broken, None], given, [(TensorProto.FLOAT, 2)])[0]
        assert np.isfinite(y).all()


@pytest.mark.parametrize(
    "layout,name,change,message",
    [
        (SPARSE, "int4", {"bits": 5}, "bits = 5 (docs/layouts.md: n16k4s/1 has 3 or 4)"),
        (QUINTS, "balanced2", {"bits": 4}, "bits = 4 (docs/layouts.md: n16k4q/1 has 3)"),
        (
            *(SPARSE, "e2m1", {"table": [1] * 16}),
            "table of e2m1 without 0 (docs/layouts.md: n16k4s/1 leaves zeros out)",
        ),
        (
            *(QUINTS, "balanced2", {"table": [-2, -1, 0, 1, 3, 2, 2, 2]}),
            "format balanced2 is not -2, -1, 0, 1, 2, 2, 2, 2 without sign and zero point",
        ),
        (
            *(QUINTS, "balanced2", {"block_size": 32}),
            "block_size = 32 of 3 bits is no multiple of 96 (docs/layouts.md: n16k4q/1)",
        ),
        (
            *(SPARSE, "int4", {"K": 97}),
            "W has 2304 bytes; n16k4s/1 of N = 64, K = 97, int4 (4 bits), block_size 97 needs 2496",
        ),
    ],
)
def test_refusals(rng, layout, name, change, message):
    weight = weight_of(rng, layout, name, 64, 96, 0, "none")
    given = one.weight_attributes(weight, layout) | products.SCALED | change
    x, bias = np.zeros((1, 96), np.uint8), np.zeros(64, np.int32)
    inputs = [x, one.pack(weight, layout), bias, np.ones(64, np.float32)]
    with pytest.raises(Exception, match="QMatMul") as caught:
        one.run("QMatMul", inputs, given, [(TensorProto.FLOAT, 2)])
    assert message in str(caught.value)


def test_bytes_are_those_of_the_formula():
    """2:4 of 4 bits in 3 bits a weight, of 3 in 2.5, five levels in 2.33 (43 chunks of 96)."""
    for layout, name, size in (
        (SPARSE, "int4", 4096 * 4096 * 3 // 8),
        (SPARSE, "int3", 4096 * 4096 * 5 // 16),
        (QUINTS, "balanced2", 4096 * 43 * 96 // 3 * 7 // 8),
    ):
        shape = Shape(4096, 4096, get(name), 0, "f16", has_zero_point=False)
        assert LAYOUTS[layout].num_bytes(shape) == size + 2 * 4096
