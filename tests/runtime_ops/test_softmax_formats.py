# SPDX-License-Identifier: Apache-2.0
"""QAttention with weights of log2_<b> and twin<b> against numerics, and what it refuses (N43)."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.numerics.attention import Numbers, qattention
from qcompile.numerics.softmax_formats import NAMES, SoftmaxFormat
from tests.runtime_ops.test_attention import NAMES as OPERANDS
from tests.runtime_ops.test_attention import SCALED, SHAPES, attend, operands
from tests.runtime_ops.test_refusals import refusal

FORMATS = [  # twin with the least and the greatest of its shifts
    SoftmaxFormat.parse(name, shift)
    for name in NAMES
    for shift in sorted({SoftmaxFormat.parse(name).shifts[i] for i in (0, -1)})
]
each_format = pytest.mark.parametrize("softmax", FORMATS, ids=lambda f: f"{f.name}:{f.shift}")


def named(softmax: SoftmaxFormat) -> dict:
    found = SCALED | {"softmax_format": softmax.name}
    return found | ({"softmax_shift": softmax.shift} if softmax.shift else {})


def expected(inputs, attributes, softmax, mask=None):
    names = [f"{name}_zero_point" for name in OPERANDS] + ["multiplier", "y_multiplier"]
    numbers = Numbers(*(attributes[name] for name in names), softmax)
    ends = (attributes[name] for name in ("y_zero_point", "y_min", "y_max"))
    return qattention(*inputs, mask, numbers, *ends)


@pytest.mark.parametrize(
    ("kind", "multiplier"), [("random", 2e-4), ("random", 0.03), ("extreme", 2e-5), ("equal", 0.3)]
)
@each_format
def test_every_shape(softmax, kind, multiplier):
    attributes = named(softmax) | {"multiplier": multiplier}
    for sizes in SHAPES:
        inputs = operands((2,), sizes, kind)
        wanted = expected(inputs, attributes, softmax)
        np.testing.assert_array_equal(attend(inputs, attributes), wanted, str(sizes))


@each_format
def test_masks_and_rows_that_see_nothing(softmax):
    rng, attributes = np.random.default_rng(0), named(softmax)
    for keys in (1, 19, 64, 131):
        inputs = operands((2,), (67, 8, keys, 6))
        mask = rng.choice(np.float32([0, -1.5, -np.inf, np.nan, -1e4, 2]), (67, keys))
        mask[3] = -np.inf
        mask[:, keys // 2 + 1 :] = -np.inf  # whole panels that no row sees
        got = attend(inputs, attributes, mask)
        np.testing.assert_array_equal(got, expected(inputs, attributes, softmax, mask))
        assert (got[:, 3] == SCALED["y_zero_point"]).all()


@pytest.mark.parametrize("name", ["log2_4", "twin4"])
def test_every_level_is_reached(name):
    """One key each: scores in steps of a code, so that a changed level would be seen."""
    softmax = SoftmaxFormat.parse(name, SoftmaxFormat.parse(name).shifts[-1])
    k, v = np.arange(256, dtype=np.uint8)[None], np.eye(256, dtype=np.uint8) * 255
    zero = dict.fromkeys((f"{n}_zero_point" for n in (*OPERANDS, "y")), 0)
    for multiplier, y_multiplier in ((0.05, 1.0), (0.02, 8.0), (0.1, 30.0), (0.1, 3e3)):
        given = zero | {"multiplier": multiplier, "y_multiplier": y_multiplier, "y_max": 255}
        attributes = named(softmax) | given | {"y_min": 0}
        inputs = [np.uint8([[1]]), k, v]
        np.testing.assert_array_equal(
            attend(inputs, attributes), expected(inputs, attributes, softmax)
        )
    other = SoftmaxFormat.parse("twin4", 4)
    assert (attend(inputs, attributes) != expected(inputs, attributes, other)).any()


def test_refusals():
    out = [(TensorProto.UINT8, 2)]
    inputs = operands((), (5, 8, 19, 6))
    rule = (
        "it is uint8, log2_2 ... log2_4 or twin3 ... twin8 (docs/numerics.md N43). "
        "Correct softmax_format."
    )
    for name in ("log2_5", "log2_1", "log2_4 ", "twin2", "twin9", "twin", "log2_", "int8", "xyz44"):
        found = refusal("QAttention", inputs, SCALED | {"softmax_format": name}, out, (0, 1, 2))
        assert found == f'QAttention "node": softmax_format = "{name}"; {rule}'
    for shift in (0, 6):
        given = SCALED | {"softmax_format": "twin4", "softmax_shift": shift}
        assert refusal("QAttention", inputs, given, out, (0, 1, 2)) == (
            f'QAttention "node": softmax_shift = {shift} is not in 1 ... 5 (docs/ops.md). '
            "Correct softmax_shift."
        )
