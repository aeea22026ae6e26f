# SPDX-License-Identifier: Apache-2.0
"""Which ops a matrix on the last axis passes: held against the numbers themselves."""

import numpy as np
import pytest

from qcompile.rotation_paths import carried
from tests.passes.graphs import parse, run

TURN = np.float32([[0, 1], [-1, 0]])  # exact on integers
INPUT = "float[2,3,4] x"
# A body that gives y from x, and the inputs that are carried.
CASES = {
    "reshape": ("float[6,4] y", "y = Reshape (x, <s>)", "int64[2] s = {6, 4}", (0,)),
    "heads": ("float[2,3,2,2] y", "y = Reshape (x, <s>)", "int64[4] s = {2, 3, 2, 2}", (0,)),
    "turned": ("float[3,2,4] y", "y = Transpose <perm = [1,0,2]> (x)", "", (0,)),
    "moved": ("float[2,4,3] y", "y = Transpose <perm = [0,2,1]> (x)", "", None),
    "tokens": ("float[2,2,4] y", "y = Gather <axis = 1> (x, <s>)", "int64[2] s = {2, 0}", (0,)),
    "channels": ("float[2,3,2] y", "y = Gather <axis = 2> (x, <s>)", "int64[2] s = {2, 0}", None),
    "mean": ("float[2,4] y", "y = ReduceMean <axes = [1], keepdims = 0> (x)", "", (0,)),
    "last mean": ("float[2,3] y", "y = ReduceMean <axes = [-1], keepdims = 0> (x)", "", None),
    "number": ("float[2,3,4] y", "y = Mul (<s>, x)", "float s = {3}", (1,)),
    "vector": ("float[2,3,4] y", "y = Mul (<s>, x)", "float[4] s = {3, 1, 1, 1}", None),
    "row": ("float[2,3,4] y", "y = Div (x, <s>)", "float[3,1] s = {2, 4, 8}", (0,)),
    "inverse": ("float[2,3,4] y", "y = Div (<s>, x)", "float s = {2}", None),
    "positions": ("float[2,2,4] y", "y = MatMul (<s>, x)", "float[2,3] s = {1,2,3,4,5,6}", (1,)),
    "joined": ("float[2,6,4] y", "y = Concat <axis = 1> (x, x)", "", (0, 1)),
    "dropout": ("float[2,3,4] y", "y = Dropout (x)", "", (0,)),
    "relu": ("float[2,3,4] y", "y = Relu (x)", "", None),
}


def turned(x: np.ndarray) -> np.ndarray:
    """Pairs of the last axis, each turned by 90°."""
    pairs = x.reshape(-1, 2) @ TURN
    return np.ascontiguousarray(pairs).reshape(x.shape)


@pytest.mark.parametrize("case", CASES)
def test_what_is_carried_commutes_with_blocks_of_a_matrix(case: str) -> None:
    out, body, constant, wanted = CASES[case]
    text = f"f ({INPUT}) => ({out}) <{constant}> {{ {body.replace('<s>', 's')} }}"
    model = parse(text.replace("<> ", ""))
    (node,) = model.graph
    assert carried(node) == wanted
    x = np.random.default_rng(0).integers(-4, 5, (2, 3, 4)).astype(np.float32)
    (plain,), (other,) = run(model, {"x": x}), run(model, {"x": turned(x)})
    commutes = other.shape[-1] % 2 == 0 and np.array_equal(turned(plain), other)
    assert commutes == (wanted is not None)


def test_a_vector_on_the_right_is_summed_over() -> None:
    model = parse("f (float[3,4] p, float[4] x) => (float[3] y) { y = MatMul (p, x) }")
    assert carried(next(iter(model.graph))) is None
