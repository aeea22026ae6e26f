# SPDX-License-Identifier: Apache-2.0
"""Transposes move down until they meet their inverse."""

import pytest

from qcompile.passes.lower.move_transpose_past_op import MoveTransposePastOp
from tests.passes.graphs import (
    assert_equal_outputs,
    assert_left_alone,
    assert_rewritten,
    lines_of,
    parse,
)

TO_NCHW, TO_NHWC = "Transpose <perm = [0,3,1,2]>", "Transpose <perm = [0,2,3,1]>"
CONSTANTS = (
    "<float s = {0.5}, float[1] v = {2}, float[3,1,1] w = {1, 2, 3}, uint8 p = {8}, "
    "float[1,3,1,1] w4 = {1, 2, 3}, float[5] row = {1, 2, 3, 4, 5}, "
    "int64[1] i = {1}, int64[1] j = {2}, int64[1] axis = {1}, int32[1] i32 = {1}, "
    "int32[1] j32 = {2}, int32[1] axis32 = {-2}, float[4] scales = {1, 1, 2, 1}, "
    "int64[4] sizes = {1, 3, 2, 10}, int64[8] pads = {0, 1, 2, 0, 0, 0, 3, 0}>"
)
NHWC = "float[1,4,5,3] x"


def net(body: str, output: str = "float[1,4,5,3] y", inputs: str = NHWC) -> str:
    """A graph on x."""
    return f"f ({inputs}) => ({output}) {CONSTANTS} {{ {body} }}"


SHAPES = {
    "Relu (t)": "1,4,5,3",
    "Clip (t, s)": "1,4,5,3",
    "Mul (t, s)": "1,4,5,3",
    "Mul (v, t)": "1,4,5,3",
    "Add (t, t)": "1,4,5,3",
    "Mul (t, w)": "1,4,5,3",
    "Div (w4, t)": "1,4,5,3",
    "Slice (t, i, j, axis)": "1,4,5,1",
    "Slice (t, i32, j32, axis32)": "1,1,5,3",
    "Pad (t, pads)": "1,9,5,4",
    "Concat <axis = 1> (t, t)": "1,4,5,6",
    "Concat <axis = -1> (t, t, t)": "1,4,15,3",
    'Resize <mode = "nearest"> (t, , scales)': "1,8,5,3",
    'Resize <mode = "nearest"> (t, , , sizes)': "1,2,10,3",
    'Resize <mode = "linear"> (t, , scales)': "1,8,5,3",
    'Resize <mode = "linear"> (t, , , sizes)': "1,2,10,3",
}


@pytest.mark.parametrize(("op", "shape"), SHAPES.items())
def test_cancelled_with_its_inverse(op: str, shape: str) -> None:
    text = net(
        f"t = {TO_NCHW} (x)   r = {op}   u = {TO_NHWC} (r)   y = Neg (u)", f"float[{shape}] y"
    )
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == [op.split()[0], "Neg"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    "nodes",
    [
        "t = Transpose <perm = [0, 2, 3, 1]> (x)",  # to axes 1 and 3: no linear mode
        f"a = {TO_NCHW} (x)   t = {TO_NCHW} (a)",  # ORT itself would move one there
    ],
)
def test_interpolation_keeps_axes_that_ort_has(nodes: str) -> None:
    model = parse(f"""f ({NHWC}) => (float[n,m,k,l] y) <float[4] scales = {{1, 1, 2, 2}}>
    {{ {nodes}   y = Resize <mode = "linear"> (t, , scales) }}""")
    assert not MoveTransposePastOp()(model).modified


def test_split() -> None:
    text = net(
        f"t = {TO_NCHW} (x)   a, b = Split <axis = -2> (t)   u = {TO_NHWC} (a)   y = Neg (u)   "
        f"o = {TO_NHWC} (b)   z = Abs (o)",
        "float[1,2,5,3] y, float[1,2,5,3] z",
    )
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == ["Split", "Neg", "Abs"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize("op", ["Reshape (t, flat)", "Flatten (t)"])
def test_one_pixel_needs_no_transpose(op: str) -> None:
    text = f"""f (float[2,1,1,3] x) => (float[2,3] y) <int64[2] flat = {{0, -1}}>
    {{ t = {TO_NCHW} (x)   y = {op} }}"""
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == [op.split()[0]]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("DepthToSpace <blocksize = 2> (t)", "2,2,8,12"),
        ("SpaceToDepth <blocksize = 2> (t)", "2,32,2,3"),
    ],
)
def test_whole_pixels_move(op: str, shape: str) -> None:
    text = f"""f (float[2,4,6,8] x) => (float[{shape}] y)
    {{ a = Abs (x)   t = {TO_NCHW} (a)   y = {op} }}"""
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    kinds = [n.op_type for n in model.graph]
    assert kinds == ["Abs", "Reshape", "Transpose", "Reshape", "Transpose"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize("target", ["0, 3, -1", "0, 3, 20", "0, -1, 20"])
def test_rows_need_no_transpose(target: str) -> None:
    text = f"""f (float[2,4,5,3] x) => (float[2,20,3] y) <int64[3] rows = {{{target}}}>
    {{ t = {TO_NCHW} (x)   a = Reshape (t, rows)   y = Transpose <perm = [0,2,1]> (a) }}"""
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == ["Reshape"]
    assert_equal_outputs(parse(text), model)


def test_two_transposes_of_one_value_are_one() -> None:
    text = net(f"a = {TO_NHWC} (x)   b = {TO_NHWC} (x)   y = Mul (a, b)", "float[1,5,3,4] y")
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == ["Transpose", "Mul"]
    assert_equal_outputs(parse(text), model)


def test_the_first_of_two_equal_transposes_stays() -> None:
    """The last one becomes a transpose of x only when those between cancel each other."""
    turn = "Transpose <perm = [0,2,1]>"
    text = f"""f (float[2,3,4] x) => (float[2,3,3] y, float[2,3,3] z)
    {{ t = {turn} (x)   y = MatMul (x, t)   u = {turn} (t)   v = {turn} (u)
       z = MatMul (u, v) }}"""
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == ["Transpose", "MatMul", "MatMul"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channel_shuffle(groups: int) -> None:
    text = f"""f (float[2,4,5,6] x) => (float[2,4,5,6] y)
    <int64[5] five = {{2, {groups}, {6 // groups}, 4, 5}}, int64[4] four = {{2, 6, 4, 5}}>
    {{ t = {TO_NCHW} (x)   a = Reshape (t, five)   s = Transpose <perm = [0,2,1,3,4]> (a)
       r = Reshape (s, four)   u = {TO_NHWC} (r)   y = Neg (u) }}"""
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == ["Reshape", "Transpose", "Reshape", "Neg"]
    assert_equal_outputs(parse(text), model)


def test_moves_to_the_end() -> None:
    assert_rewritten(
        MoveTransposePastOp(),
        f"f ({NHWC}) => (float[1,3,4,5] y) {{ t = {TO_NCHW} (x)   r = Relu (t)   y = Neg (r) }}",
        f"""f ({NHWC}) => (float[1,3,4,5] y)
        {{ r_nhwc = Relu (x)   y_nhwc = Neg (r_nhwc)   y = {TO_NCHW} (y_nhwc) }}""",
    )


def test_two_inputs_with_the_same_transpose() -> None:
    text = net(
        f"t = {TO_NCHW} (x)   o = {TO_NCHW} (z)   r = Add (t, o)   u = {TO_NHWC} (r)   y = Neg (u)",
        inputs=f"{NHWC}, float[1,4,5,3] z",
    )
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == ["Add", "Neg"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (f"t = {TO_NCHW} (x)   r = Relu (t)   y = {TO_NHWC} (r)   z = Neg (r)", "1,3,4,5"),
        (f"t = {TO_NCHW} (x)   y = {TO_NHWC} (t)   z = Relu (t)", "1,3,4,5"),
    ],
    ids=["a moved value with two readers", "a transpose with two readers"],
)
def test_other_readers_and_outputs_keep_their_values(body: str, output: str) -> None:
    text = net(body, f"float[1,4,5,3] y, float[{output}] z")
    model = parse(text)
    MoveTransposePastOp()(model)
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    assert_equal_outputs(parse(text), model)


def test_codes() -> None:
    text = f"""f (float[1,4,5,3] x) => (float[1,4,5,3] y) <float s = {{0.5}}, uint8 p = {{8}}>
    {{ t = {TO_NCHW} (x)   q = QuantizeLinear (t, s, p)   d = DequantizeLinear (q, s, p)
       u = {TO_NHWC} (d)   y = Relu (u) }}"""
    model = parse(text)
    assert MoveTransposePastOp()(model).modified
    assert [n.op_type for n in model.graph] == ["QuantizeLinear", "DequantizeLinear", "Relu"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    "text",
    [
        net(f"t = {TO_NCHW} (x)   y = Softmax (t)", "float[1,3,4,5] y"),
        net(f"t = {TO_NCHW} (x)   y = Mul (t, row)", "float[1,3,4,5] y"),
        net(f"t = {TO_NCHW} (x)   y = Slice (t, i, j)", "float[1,3,4,5] y"),
        net(
            f"t = {TO_NCHW} (x)   y = Slice (t, i, k, axis)",
            "float[1,n,4,5] y",
            f"{NHWC}, int64[1] k",
        ),
        net(f'y = Pad <mode = "reflect"> (t, pads)   t = {TO_NCHW} (x)', "float[1,3,4,5] y"),
        net(
            f"t = {TO_NCHW} (x)   u = Transpose <perm = [0,2,1,3]> (z)   y = Add (t, u)",
            "float[1,3,4,5] y",
            f"{NHWC}, float[1,4,3,5] z",
        ),
        net(f"t = {TO_NCHW} (x)   y = {TO_NCHW} (t)", "float[1,5,3,4] y"),
        net(f"t = {TO_NCHW} (x)   y = Transpose (t)", "float[5,4,3,1] y"),
        net(
            f"t = {TO_NCHW} (x)   y = Concat <axis = 1> (t, z)",
            "float[1,6,4,5] y",
            f"{NHWC}, float[1,3,4,5] z",
        ),
        net(f"t = {TO_NCHW} (x)   y = Reshape (t, j)", "float[60] y").replace(
            "[1] j = {2}", "[1] j = {-1}"
        ),
        net("y = Relu (x)"),
        net(f't = {TO_NCHW} (x)   y = Resize <mode = "cubic"> (t, , scales)', "float[1,3,8,5] y"),
    ],
    ids=[
        "softmax",
        "a constant of columns",
        "slice without axes",
        "slice at run time",
        "reflection",
        "two transposes",
        "no inverse",
        "default order",
        "concat with a map of another layout",
        "a reshape of many pixels",
        "none",
        "cubic",
    ],
)
def test_left_alone(text: str) -> None:
    if "reflect" in text:
        text = (
            text.replace("y = Pad", "a = Neg (x)   y = Pad")
            .replace(f"   t = {TO_NCHW} (x)", "")
            .replace("{ a = Neg (x)", f"{{ t = {TO_NCHW} (x)")
        )
    assert_left_alone(MoveTransposePastOp(), text)


def test_the_graph_is_unchanged_by_a_second_run() -> None:
    model = parse(net(f"t = {TO_NCHW} (x)   r = Relu (t)   y = Neg (r)", "float[1,3,4,5] y"))
    MoveTransposePastOp()(model)
    lines = lines_of(model)
    assert not MoveTransposePastOp()(model).modified
    assert lines_of(model) == lines
