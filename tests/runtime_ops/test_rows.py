# SPDX-License-Identifier: Apache-2.0
"""QLayerNorm and QSoftmax against numerics, and what they refuse (N28, N29)."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.numerics.layer_norm import qlayer_norm
from qcompile.numerics.softmax import exp_table, qsoftmax
from tests.runtime_ops.single_op import build, run, session
from tests.runtime_ops.test_refusals import refusal

U8 = [(TensorProto.UINT8, 2)]
COLUMNS = (1, 2, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 257, 2031, 2032, 2033, 40000)
SHAPES = [(3, k) for k in COLUMNS] + [(0, 7), (1, 16), (5, 2, 3, 33), (1000, 37)]
NORM = {"mode": "layer", "epsilon": 0.02, "x_zero_point": 131, "y_zero_point": 117}
NORM |= {"y_min": 2, "y_max": 251}
SOFT = {"multiplier": 255.0, "y_zero_point": 0, "y_min": 0, "y_max": 255}


def codes_of(shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "extreme":
        return rng.choice(np.uint8([0, 255]), shape)
    return (
        np.full(shape, 255, np.uint8) if kind == "equal" else rng.integers(0, 256, shape, np.uint8)
    )


KINDS = pytest.mark.parametrize("kind", ["random", "extreme", "equal"])


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape, kind):
    x, rng = codes_of(shape, kind), np.random.default_rng(1)
    gamma, beta = (rng.normal(0, 30, shape[-1]).astype(np.float32) for _ in range(2))
    for mode, epsilon in (("layer", 0.02), ("rms", 1e-7), ("layer", 0.0)):
        attributes = NORM | {"mode": mode, "epsilon": epsilon}
        output = [(TensorProto.UINT8, len(shape))]
        got = run("QLayerNorm", [x, gamma, beta], attributes, output, threads=2)[0]
        points = (131, 117, 2, 251)
        expected = qlayer_norm(x, gamma, beta, epsilon, *points, is_centred=mode == "layer")
        np.testing.assert_array_equal(got, expected)


def test_a_changed_code_changes_the_layer_norm():
    x = codes_of((3, 65), "random")
    other = x.copy()
    other[:, 64] ^= 128
    ones = np.full(65, 40, np.float32)
    got = run("QLayerNorm", [x, ones, ones], NORM, U8)[0]
    assert (got != qlayer_norm(other, ones, ones, 0.02, 131, 117, 2, 251, is_centred=True)).any()


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(shape, kind):
    x = codes_of(shape, kind)
    for scale, values in (
        (0.037, (255.0, 0, 0, 255)),
        (1e-4, (1e4, 3, 5, 250)),
        (5.0, (9, 0, 0, 255)),
    ):
        names = ("multiplier", "y_zero_point", "y_min", "y_max")
        attributes = dict(zip(names, (float(values[0]), *values[1:]), strict=True))
        table = exp_table(scale)
        output = [(TensorProto.UINT8, len(shape))]
        got = run("QSoftmax", [x, table], attributes, output, threads=2)[0]
        np.testing.assert_array_equal(got, qsoftmax(x, table, *values))


def test_a_changed_code_changes_the_softmax():
    x = codes_of((3, 17), "random")
    other = x.copy()
    other[:, 16] = 255
    got = run("QSoftmax", [x, exp_table(0.01)], SOFT | {"multiplier": 2000.0}, U8)[0]
    assert (got != qsoftmax(other, exp_table(0.01), 2000.0, 0)).any()


@pytest.mark.parametrize("op", ["QLayerNorm", "QSoftmax"])
def test_shapes_are_inferred(op):
    one = np.ones(36, np.float32)
    more = [one, one] if op == "QLayerNorm" else [exp_table(0.1)]
    inputs = [np.zeros((1, 2, 36), np.uint8), *more]
    model = build(op, inputs, NORM if more[0] is one else SOFT, U8, dims={0: ["batch", "n", 36]})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == ["batch", "n", 36]


def test_layer_norm_refuses():
    x, one = np.zeros((2, 36), np.uint8), np.ones(36, np.float32)
    head = 'QLayerNorm "node": '
    for changes, message in [
        ({"mode": "batch"}, 'mode = "batch"; it is layer or rms (docs/ops.md). Correct mode.'),
        ({"epsilon": -1.0}, "epsilon is negative or no number (N28). Correct epsilon."),
        ({"y_max": 256}, "y_max = 256 is not in 0 ... 255 (docs/ops.md). Correct y_max."),
    ]:
        assert refusal("QLayerNorm", [x, one, one], NORM | changes, U8) == head + message
    assert refusal("QLayerNorm", [x, one, one[:35]], NORM, U8) == (
        head + "X is [2, 36], gamma or beta is [35] (docs/ops.md: gamma [K], beta [K]). "
        "Correct the graph."
    )
    scalar = np.zeros((), np.uint8)
    assert refusal("QLayerNorm", [scalar, one, one], NORM, [(TensorProto.UINT8, 0)]) == (
        head + "X is [] (N28: X is [..., K] with K of at most 2^23). Correct the graph."
    )


def test_softmax_refuses():
    x, table, head = np.zeros((2, 36), np.uint8), exp_table(0.1), 'QSoftmax "node": '
    rule = "(N29: integers of 0 ... 2^24, the first 2^24). Correct table."
    for at, value, shown in [
        (0, 0.0, "table[0] = 0.000000"),
        (3, 0.5, "table[3] = 0.500000"),
        (4, -1.0, "table[4] = -1.000000"),
        (255, np.nan, "table[255] = nan"),
        (9, 2.0**25, "table[9] = 33554432.000000"),
    ]:
        changed = table.copy()
        changed[at] = value
        assert refusal("QSoftmax", [x, changed], SOFT, U8) == f"{head}{shown} {rule}"
    assert refusal("QSoftmax", [x, table[:255]], SOFT, U8) == (
        f"{head}table is [255] (docs/ops.md: table [256]). Correct table."
    )
    assert refusal("QSoftmax", [x, table], SOFT, U8, (0, 1)) == (
        f"{head}table is no initializer (docs/ops.md). Store the table in the model."
    )
    scalar = np.zeros((), np.uint8)
    assert refusal("QSoftmax", [scalar, table], SOFT, [(TensorProto.UINT8, 0)]) == (
        f"{head}X is [] (N29: X is [..., K] with K of at most 2^29). Correct the graph."
    )
