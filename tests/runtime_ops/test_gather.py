# SPDX-License-Identifier: Apache-2.0
"""QGather against numerics (N23)."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import FORMATS, get
from qcompile.numerics import gather
from tests.runtime_ops.single_op import pack, random_weight, run, weight_attributes

F32 = TensorProto.FLOAT


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize("layout", ["n16k4/1", "rows/1"])
@pytest.mark.parametrize("name", list(FORMATS))
def test_gather(rng, name, layout):
    format = get(name)
    for n, k, block_size in [(1, 1, 0), (70, 100, 40 if format.levels else 32), (33, 64, 0)]:
        for scale_format in ("f16", "f32"):
            with_zero_point = not format.is_table and scale_format == "f16"
            weight = random_weight(
                rng, n, k, format, block_size, scale_format, with_zero_point=with_zero_point
            )
            indices = rng.integers(-n, n, (2, 3)).astype(np.int64)
            attributes = weight_attributes(weight, layout)
            inputs = [indices, pack(weight, layout)]
            got = run("QGather", inputs, attributes, [(F32, 3)])[0]
            np.testing.assert_array_equal(got, gather.qgather(weight, indices))


@pytest.mark.parametrize("layout", ["n16k4/1", "rows/1"])
def test_gather_of_a_static_weight(rng, layout):
    for n, k in [(1, 1), (70, 101), (33, 64)]:
        weight = random_weight(rng, n, k, get("int8"), 0, "none")
        indices = rng.integers(-n, n, (2, 3)).astype(np.int64)
        scale = rng.random(n).astype(np.float32)
        inputs = [indices, pack(weight, layout), scale]
        got = run("QGather", inputs, weight_attributes(weight, layout), [(F32, 3)])[0]
        np.testing.assert_array_equal(got, gather.qgather(weight, indices, scale))
        wrong = scale + np.float32(1)
        assert (got != gather.qgather(weight, indices, wrong)).any()
