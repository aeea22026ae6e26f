# SPDX-License-Identifier: Apache-2.0
"""EmbedLayerNormalization is three Gathers, two sums and a norm."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.passes.normalise.split_embed_layer_norm import SplitEmbedLayerNorm
from tests.passes.graphs import assert_left_alone, parse, run
from tests.passes.stages import with_weights

# A norm of 16 numbers: the mean and the variance are sums of 16, whose roundings the division by a
# deviation of at least 1/8 of the largest number makes 8 times larger; the result is below 4 · 4.
LIMIT = 2 * 16 * 8 * 16 * 2.0**-23

SHAPES = {"t": (9, 16), "p": (6, 16), "k": (2, 16), "g": (16,), "b": (16,)}


def embed(operands: str, inputs: str = "", outputs: str = "y, m", shape: str = "2,4") -> str:
    return f"""f (int32[{shape}] i{inputs}, float t, float p, float k, float g, float b)
    => (float[2,4,16] y) {{ {outputs} = com.microsoft.EmbedLayerNormalization ({operands}) }}"""


def norms(text: str) -> tuple[ir.Model, ir.Model]:
    before, after = with_weights(text, **SHAPES), with_weights(text, **SHAPES)
    assert SplitEmbedLayerNorm()(after).modified
    return before, after


FEED = {
    "i": np.array([[0, 8, 3, 2], [1, 1, 7, 5]], np.int32),
    "s": np.array([[0, 0, 1, 1], [0, 1, 1, 1]], np.int32),
    "q": np.array([[0, 1, 2, 3], [5, 4, 3, 2]], np.int32),
}


@pytest.mark.parametrize(
    ("operands", "inputs", "types"),
    [
        ("i, , t, p, , g, b", "", ["Gather"] * 2 + ["Add"]),
        ("i, s, t, p, k, g, b", ", int32[2,4] s", ["Gather"] * 3 + ["Add"] * 2),
        ("i, s, t, p, k, g, b, , q", ", int32[2,4] s, int32[2,4] q")
        + (["Gather"] * 3 + ["Add"] * 2,),
    ],
)
def test_tables(operands: str, inputs: str, types: list[str]) -> None:
    before, after = norms(embed(operands, inputs))
    assert [n.op_type for n in after.graph] == [*types, "LayerNormalization"]
    left, right = run(before, FEED)[0], run(after, FEED)[0]
    assert np.abs(left - right).max() <= LIMIT
    after.graph.initializers["t"].const_value.numpy()[8, 0] += 1
    assert np.abs(left - run(after, FEED)[0]).max() > LIMIT


def test_the_sum_may_be_read() -> None:
    text = embed("i, , t, p, , g, b", outputs="y, m, e").replace("y) {", "y, float[2,4,16] e) {")
    before, after = norms(text)
    for left, right in zip(run(before, FEED), run(after, FEED), strict=True):
        assert np.abs(left - right).max() <= LIMIT


TABLES = ", ".join(
    f"float[{n}] {name} = {{{', '.join(['1'] * count)}}}"
    for name, n, count in (("t", "3,2", 6), ("p", "2,2", 4), ("g", "2", 2), ("b", "2", 2))
)


def small(inputs: str, outputs: str, operands: str, made: str = "y, m") -> str:
    return f"""f ({inputs}) => (float[1,n,2] y{outputs}) <{TABLES}>
    {{ {made} = com.microsoft.EmbedLayerNormalization ({operands}) }}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (small("int32[1,2] i, float[3,2] u", "", "i, , u, p, , g, b"), "a table is not constant"),
        (
            small("int32[1,2] i, int32[1,2] k", ", int32[1] m", "i, , t, p, , g, b, k"),
            "its mask index is read",
        ),
        (
            small("int32[1,n] i", "", "i, , t, p, , g, b"),
            "its positions are counted from an input of unknown length",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(SplitEmbedLayerNorm(), text, reason)


def test_an_older_opset() -> None:
    model = parse(small("int32[1,2] i", "", "i, , t, p, , g, b"))
    model.graph.opset_imports[""] = 16
    each = SplitEmbedLayerNorm()
    assert not each(model).modified
    assert [r.reason for r in each.refusals] == ["opset 17 has the first LayerNormalization"]
