# SPDX-License-Identifier: Apache-2.0
"""The proof that token 0 is a constant: its row is what the model computes, or there is none."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.first_row import constant_first_row
from qcompile.normalise import normalise
from qcompile.session import open_model, session_options
from tests.passes.stages import with_weights

HEAD = """f (float[b,8,6] p, int64[b,9] ids, float k, float e, float w, float t, float s, float g)
  => (float[b,n,c] y) { y = BODY }"""
CLASS = "Concat <axis = 1> (k, p)"
SHAPES = {"k": (1, 1, 6), "e": (1, 9, 6), "w": (6, 5), "t": (7, 6), "s": (6,), "g": (6,)}


def body(text: str, **shapes: tuple[int, ...]) -> ir.Model:
    """The last assignment is y; batch 1, so that the class token needs no Expand."""
    *before, last = text.split("; ")
    whole = HEAD.replace("{ y = BODY }", "{ " + " ".join([*before, f"y = {last}"]) + " }")
    return normalise(with_weights(whole.replace("[b,", "[1,"), **(SHAPES | shapes)))


def row(model: ir.Model) -> np.ndarray | None:
    return constant_first_row(model, model.graph.outputs[0])


@pytest.mark.parametrize(
    "text",
    [
        CLASS,
        f"x = {CLASS}; Add (x, e)",
        f"x = {CLASS}; Mul (e, x)",
        f"x = {CLASS}; Tanh (x)",
        f"x = {CLASS}; z = Add (x, e); MatMul (z, w)",
        f"x = {CLASS}; z = LayerNormalization <axis = -1> (x, s, g); MatMul (z, w)",
        f"x = {CLASS}; z = Mul (x, x); m = ReduceMean <axes = [-1]> (z); Div (x, m)",
        f"x = {CLASS}; a = Tanh (x); Add (a, x)",
    ],
)
def test_the_row_is_that_of_the_model(text: str) -> None:
    model = body(text)
    found = row(model)
    assert found is not None and found.shape[:-1] == (1, 1)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        feed = {"p": rng.standard_normal((1, 8, 6)).astype(np.float32)}
        feed["ids"] = rng.integers(0, 7, (1, 9))
        session = open_model(model, session_options(1, optimise=False))
        names = {i.name for i in session.get_inputs()}
        (wanted,) = session.run(None, {n: a for n, a in feed.items() if n in names})
        scale = np.abs(wanted[:, :1]).max() * 64  # sums of 6 terms, a norm of 6, three ops
        np.testing.assert_allclose(found, wanted[:, :1], rtol=0, atol=float(scale) * 2.0**-23)


@pytest.mark.parametrize(
    "text",
    [
        "Relu (p)",
        "Concat <axis = 1> (p, k)",  # the constant is the last token
        f"x = {CLASS}; q = Gather (t, ids); Add (x, q)",  # BOS: only data say so
        f"x = {CLASS}; Softmax <axis = 1> (x)",
        f"x = {CLASS}; LayerNormalization <axis = 1> (x, e)",
        f"x = {CLASS}; ReduceMean <axes = [1]> (x)",
        f"x = {CLASS}; xt = Transpose <perm = [0, 2, 1]> (x); MatMul (x, xt)",
        f"x = {CLASS}; c = Concat <axis = 2> (x, x); Relu (c)",
    ],
)
def test_what_may_change_is_not_proven(text: str) -> None:
    shapes = {"e": (9, 6)} if "axis = 1> (x, e)" in text else {}
    assert row(body(text, **shapes)) is None


def test_constants_with_a_batch_are_none() -> None:
    model = body("Add (p, e)", e=(3, 8, 6))
    assert row(model) is None
