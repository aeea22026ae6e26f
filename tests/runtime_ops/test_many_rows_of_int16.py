# SPDX-License-Identifier: Apache-2.0
"""Many rows of tables of int16: pairs of columns, in slices of 512 (N10 … N17)."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import Format
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one
from tests.runtime_ops.products import assert_within
from tests.runtime_ops.single_op import random_weight
from tests.runtime_ops.test_tables import WIDE, WINDOW, unit


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(12)


@pytest.mark.parametrize("format", [WIDE[0], WIDE[3], WIDE[7]], ids=str)
@pytest.mark.parametrize(
    ("k", "block"),
    [(512, 0), (513, 0), (1100, 0), (1344, 640), (1024, 512), (544, 32), (740, 192), (1700, 1088)],
)
def test_many_rows_of_int16(rng: np.random.Generator, format: Format, k: int, block: int) -> None:
    """Slices of 512 columns that are parts of a block, or blocks, which do not fill a slice."""
    for n, rows in ((64, 18), (30, 5), (100, 34), (8, 7)):
        weight = random_weight(rng, n, k, format, block, "f16", tensor_scale=unit(format))
        assert_within(*products.matmul_real(rng, weight, (rows,)))
        if not block:
            weight = random_weight(rng, n, k, format, 0, "none")
            np.testing.assert_array_equal(*products.matmul_scaled(rng, weight, (rows,)))


@pytest.mark.parametrize(("k", "block"), [(96, 32), (700, 0)])
def test_a_row_is_the_same_among_many(rng: np.random.Generator, k: int, block: int) -> None:
    weight = random_weight(rng, 80, k, WIDE[3], block, tensor_scale=unit(WIDE[3]))
    attributes = one.weight_attributes(weight) | {"activation": "dynamic", "activation_bits": 8}
    x, packed = rng.standard_normal((9, k)).astype(np.float32), one.pack(weight)

    def product(rows: np.ndarray) -> np.ndarray:
        return one.run("QMatMul", [rows, packed], attributes, [(TensorProto.FLOAT, 2)])[0]

    np.testing.assert_array_equal(product(x), np.concatenate([product(row[None]) for row in x]))


@pytest.mark.parametrize("channels", [3, 16, 100])
def test_many_pixels_of_int16(rng: np.random.Generator, channels: int) -> None:
    """More of them than sums are held for, and rows in pieces that slices cut."""
    weight = random_weight(rng, 34, 9 * channels, WIDE[3], 0, "none")
    given = weight, (1, 33, 31, channels), WINDOW
    np.testing.assert_array_equal(*products.conv_static(rng, *given))
    np.testing.assert_array_equal(*products.conv_scaled(rng, *given))
