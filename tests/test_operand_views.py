# SPDX-License-Identifier: Apache-2.0
"""An operand's view of its source says where each of its elements lies."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from qcompile.operand_views import OperandView, split_axes, view_of
from tests.passes.graphs import HEADER

CHAINS = {
    "transpose": "y = Transpose <perm = [3, 0, 2, 1]> (x)",
    "squeeze": "s = Transpose <perm = [2, 0, 1, 3]> (x)   h = Split <axis = 0> (s, threes) "
    "y = Squeeze (h, first)",
    "gather": "s = Transpose <perm = [2, 0, 1, 3]> (x)   y = Gather <axis = 0> (s, two)",
    "gather twice": "s = Gather <axis = 1> (x, two)   y = Gather <axis = -1> (s, one)",
    "split axes": "s = Transpose <perm = [1, 0, 2, 3]> (x)   r = Reshape (s, six)   "
    "y = Transpose <perm = [4, 1, 3, 5, 0, 2]> (r)",
    "unsqueeze": "s = Unsqueeze (x, first)   t = Transpose <perm = [3, 1, 2, 0, 4]> (s)   "
    "u = Squeeze (t, third)   y = Gather <axis = 0> (u, one)",
    "regrouped": "s = Gather <axis = 2> (x, one)   r = Reshape (s, regrouped)   "
    "t = Transpose <perm = [1, 0, 2]> (r)   y = Reshape (t, again)",
}
TEXT = """f (uint8[BATCH,5,3,12] x) => (uint8 y)
<int64[3] threes = {1, 1, 1}, int64[1] first = {0}, int64[1] third = {3}, int64 one = {1},
 int64 two = {2}, int64[6] six = {5, -1, 3, 2, 3, 2}, int64[3] regrouped = {-1, 20, 3},
 int64[4] again = {5, 4, -1, 3}> { BODY }"""


def chain(name: str, batch: str = "b") -> ir.Model:
    body = CHAINS[name].replace("h = Split", "h0, h, h2 = Split")
    model = ir.from_onnx_text(HEADER + TEXT.replace("BODY", body).replace("BATCH", batch))
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    return ir.from_proto(inferred)


def seen(view: OperandView, x: np.ndarray) -> np.ndarray:
    """What the view says of its value's elements."""
    dims, first = [], []
    for axis in range(view.num_axes):
        first.append(len(dims))
        dims += view.parts.get(axis, (x.shape[axis],))
    split = x.reshape(dims)
    fixed = {first[axis] + part: at for (axis, part), at in view.fixed.items()}
    kept = split[tuple(fixed.get(i, slice(None)) for i in range(split.ndim))]
    left = [i for i in range(split.ndim) if i not in fixed]
    return kept.transpose([left.index(first[axis] + part) for axis, part in view.places])


@pytest.mark.parametrize("batch", ["b", "4"])
@pytest.mark.parametrize("name", CHAINS)
def test_the_view_is_what_the_nodes_give(name: str, batch: str) -> None:
    model = chain(name, batch)
    x = np.arange(4 * 5 * 3 * 12).astype(np.uint8).reshape(4, 5, 3, 12)
    x = np.random.default_rng(0).permutation(x.reshape(-1)).reshape(x.shape)
    (expected,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    view = view_of(model.graph.outputs[0], expected.ndim)
    assert view.value.name == "x"
    np.testing.assert_array_equal(seen(view, x), expected)


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (x)",
        "y = Gather <axis = 0> (x, threes)",
        "s0, y = Split <axis = 3> (x, halves)",
        "y = Reshape (x, mixed)",
        "y = Unsqueeze (x, first)",
    ],
)
def test_other_nodes_end_the_view(body: str) -> None:
    more = ", int64[2] halves = {6, 6}, int64[3] mixed = {-1, 9, 20}> {"
    text = TEXT.replace("> {", more).replace("BODY", body).replace("BATCH", "b")
    model = ir.from_onnx_text(HEADER + text)
    view = view_of(model.graph.outputs[0], 4)
    assert (view.value.name, view.places) == ("y", ((0, 0), (1, 0), (2, 0), (3, 0)))


def test_axes_are_split_as_numpy_splits_them() -> None:
    """Random shapes, of which a size of each side may be unknown."""
    rng, answered = np.random.default_rng(0), 0
    for _ in range(3000):
        parts = [rng.choice([1, 2, 3, 4, 6], rng.integers(0, 4)).tolist() for _ in range(3)]
        dims, wanted = [int(np.prod(p)) for p in parts], [size for p in parts for size in p]
        if not wanted:
            continue
        left, right = list(dims), list(wanted)
        if rng.random() < 0.5:
            left[rng.integers(3)] = -1
        if rng.random() < 0.5:
            right[rng.integers(len(right))] = -1
        runs = split_axes(left, right)
        if runs is None:
            continue
        answered += 1
        assert [i for run in runs for i in run] == list(range(len(wanted)))
        assert [int(np.prod([wanted[i] for i in run])) for run in runs] == dims
    assert answered > 2000
