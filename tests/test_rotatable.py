# SPDX-License-Identifier: Apache-2.0
"""Which values may be rotated together, and every reason why some may not."""

import pytest

from qcompile.normalise import normalise
from qcompile.rotatable import edges
from qcompile.rotation_edge import LINEAR, STREAM, VALUES, Edge
from tests.passes.stages import with_weights
from tests.rotation_nets import GPT, HEAD, HIDDEN, LLAMA, TIED, WIDTH, decoder


def found(text: str, **shapes: tuple[int, ...]) -> list[Edge]:
    return edges(normalise(with_weights(text, **shapes)).graph)


def counts(edge: Edge) -> tuple[int, ...]:
    """Of writers, constants, readers and norms."""
    parts = (edge.writers, edge.constants, edge.readers, edge.norms)
    return tuple(len(part) for part in parts)


@pytest.mark.parametrize("text", [LLAMA, TIED])
def test_a_llama_has_a_stream_and_attention_values(text: str) -> None:
    stream, values, hidden = edges(decoder(text).graph)
    assert (stream.kind, stream.block, counts(stream), stream.reason) == (
        *(STREAM, WIDTH, (3, 0, 6, 3), ""),
    )
    # the same matrix in all heads, through the Expand of grouped queries; and the bias of v
    assert (values.kind, values.block, counts(values), values.reason) == (
        *(VALUES, HEAD, (1, 1, 1, 0), ""),
    )
    assert (hidden.kind, hidden.block, hidden.reason) == (
        *(LINEAR, HIDDEN, "Mul Mul_h does not commute with a rotation"),
    )


def test_a_gpt_has_a_stream_with_positions_and_biases() -> None:
    stream, inner = edges(decoder(GPT).graph)
    assert (stream.kind, counts(stream), stream.is_centred) == (STREAM, (2, 2, 2, 2), True)
    assert inner.reason == "" and inner.bend == "Relu Relu_ur"  # scales pass it


def test_a_part_of_a_product_may_be_on_an_edge() -> None:
    text = """f (float[b,t,8] x, float w, float u, float c) => (float[b,t,5] y, float[b,t,8] z)
    <int64[2] s = {8, 12}> { m = MatMul (x, w)  a = Add (m, c)
      z, v = Split <axis = 2> (a, s)  y = MatMul (v, u) }"""
    first, edge = found(text, w=(8, 20), u=(12, 5), c=(20,))
    assert first.reason == "x is an input of the model"
    assert (edge.block, edge.reason, edge.writers[0].part.first) == (4, "", 8)
    assert edge.constants[0].part == edge.writers[0].part
    shown = text.replace("float[b,t,8] z", "float[b,t,8] z, float[b,t,20] a")
    (_, other) = found(shown, w=(8, 20), u=(12, 5), c=(20,))
    assert other.reason == "a is read besides the part of it that would turn"


NORM = "n = LayerNormalization <axis = -1> (e, g, h)"
SHAPES = {"t": (9, 8), "g": (8,), "h": (8,), "w": (8, 6)}
START = "f (int64[b,s] i, float t, float g, float h, float w) => (float[b,s,6] y"
REFUSED = {
    "post-norm": (
        f"{START}, float[b,s,8] z) {{ e = Gather (t, i) {NORM} y = MatMul (n, w) k = Add (n, n) "
        "z = Relu (k) }",
        "Add Add_k adds the result of norm LayerNormalization_n (post-norm)",
    ),
    "output": (
        f"{START}, float[b,s,8] e) {{ e = Gather (t, i) {NORM} y = MatMul (n, w) }}",
        "e is an output of the model",
    ),
    "reader": (
        f"{START}, float[b,s,8] z) {{ e = Gather (t, i) {NORM} y = MatMul (n, w) z = Tanh (e) }}",
        "Tanh Tanh_z does not commute with a rotation",
    ),
    "writer": (
        f"{START}) {{ d = Gather (t, i) e = Tanh (d) {NORM} y = MatMul (n, w) }}",
        "Tanh Tanh_e does not commute with a rotation",
    ),
    "number": (
        f"{START}) <float[1] c = {{2}}> {{ d = Gather (t, i) e = Add (d, c) {NORM} "
        "y = MatMul (n, w) }",
        "c, a constant of 1, is added to all 8 elements",
    ),
    "input": (
        "f (float[b,s,8] e, float g, float h, float w) => (float[b,s,6] y) "
        f"{{ {NORM} y = MatMul (n, w) }}",
        "e is an input of the model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_blocks_a_stream_is_named(case: str) -> None:
    text, reason = REFUSED[case]
    shapes = {name: shape for name, shape in SHAPES.items() if f"float {name}" in text}
    assert [edge.reason for edge in found(text, **shapes)] == [reason]


def test_a_body_that_reads_the_stream_blocks_it() -> None:
    text = f"""{START}, float[b,s,8] z) <bool c = {{1}}, int64[1] o = {{0}}>
    {{ e = Gather (t, i) {NORM} y = MatMul (n, w) m = ReduceMax <keepdims = 0> (y)
       p = Cast <to = 9> (m)
       z = If (p) <then_branch = th () => (float[b,s,8] q) {{ q = Relu (e) }},
       else_branch = el () => (float[b,s,8] r) {{ r = Neg (e) }}> }}"""
    (edge,) = found(text, **SHAPES)
    assert edge.reason == "a body of f reads e"


def test_a_norm_whose_inside_is_read_blocks() -> None:
    text = LLAMA.replace("y = MatMul (n3, head)", "yy = MatMul (n3, head) y = Add (yy, n3r)")
    stream = edges(decoder(text).graph)[0]
    assert stream.reason == "n3r, inside norm Mul_n3s, is read"


@pytest.mark.parametrize("moved", ["flat", "map"])
def test_patches_of_a_convolution_are_written_by_it(moved: str) -> None:
    turn = {
        "flat": "r = Reshape (c, s)  x = Transpose <perm = [0,2,1]> (r)",
        "map": "r = Transpose <perm = [0,2,3,1]> (c)  x = Reshape (r, z)",
    }[moved]
    text = f"""f (float[b,3,8,8] i, float p, float q, float g, float h, float w)
     => (float[b,16,5] y)
    <int64[3] s = {{0, 8, -1}}, int64[3] z = {{0, -1, 8}}>
    {{ c = Conv <strides = [2,2]> (i, p, q)  {turn}
      n = LayerNormalization <axis = -1> (x, g, h)  y = MatMul (n, w) }}"""
    shapes = {"p": (8, 3, 2, 2), "q": (8,), "g": (8,), "h": (8,), "w": (8, 5)}
    (edge,) = found(text, **shapes)
    assert (edge.reason, edge.block, counts(edge)) == ("", 8, (1, 1, 1, 1))
    assert edge.writers[0].node.op_type == "Conv"
    shown = text.replace("y)\n", "y, float[b,8,4,4] c)\n").replace("float[b,16,5]", "float[b,t,5]")
    assert "does not commute" in found(shown, **shapes)[0].reason


PICKED = """f (float[b,t,8] x, float w, float u, float c) => (float[b,t,4] y, float[b,2,t,2] z)
<int64[5] s = {0, 0, 3, 2, 2}, int64 i = {2}, int64 j = {0}, int64[3] f = {0, 0, 4}>
{ m = MatMul (x, w)  a = Add (m, c)  r = Reshape (a, s)  p = Transpose <perm = [2,0,3,1,4]> (r)
  z = Gather <axis = 0> (p, j)  v = Gather <axis = 0> (p, i)
  o = Transpose <perm = [0,2,1,3]> (v)  l = Reshape (o, f)  y = MatMul (l, u) }"""
PICKED_SHAPES = {"w": (8, 12), "u": (4, 4), "c": (12,)}


def test_a_part_may_be_picked_behind_reshape_and_transpose() -> None:
    _, edge = found(PICKED, **PICKED_SHAPES)
    assert (edge.reason, edge.block, counts(edge)) == ("", 2, (1, 1, 1, 0))
    assert (edge.writers[0].part.first, edge.writers[0].part.count) == (8, 4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int64 j = {0}", "int64 j = {2}"),
        ("float[b,2,t,2] z)", "float[b,2,t,2] z, float[3,b,2,t,2] p)"),
    ],
    ids=["read twice", "an output"],
)
def test_a_part_that_others_read_is_refused(old: str, new: str) -> None:
    assert found(PICKED.replace(old, new), **PICKED_SHAPES)[1].reason != ""
