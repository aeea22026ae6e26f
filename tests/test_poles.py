# SPDX-License-Identifier: Apache-2.0
"""Values that 0 or a sign would make infinite or NaN stay what they are."""

import pytest

from qcompile.poles import edge_of, pole_of
from tests.passes.graphs import parse
from tests.passes.stages import staged, with_weights

CONSTANTS = (
    "<float tiny = {0.000001}, float top = {9}, float minus = {-0.5}, float two = {2}, "
    "float half = {0.5}>"
)


def readers(body: str) -> tuple[str | None, str | None]:
    """The pole and the edge of a = Abs (x)."""
    model = parse(f"f (float[2] x) => (float[2] y) {CONSTANTS} {{ a = Abs (x)   {body} }}")
    value = model.graph.node(0).outputs[0]
    found = pole_of(value), edge_of(value)
    return tuple(None if node is None else node.op_type for node in found)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("body", "pole", "edge"),
    [
        ("y = Log (a)", "Log", "Log"),
        ("b = Relu (a)   c = Mul (b, half)   y = Log (c)", "Log", "Log"),
        ("b = Mul (half, a)   y = Log (b)", "Log", "Log"),
        ("b, c = Split <axis = 0> (a)   d = Log (c)   y = Concat <axis = 0> (b, d)", "Log", "Log"),
        ("b = Mul (a, x)   y = Log (b)", None, None),
        ("b = Sqrt (a)   y = Reciprocal (b)", "Reciprocal", "Sqrt"),
        ("y = Div (x, a)", "Div", None),
        ("y = Pow (a, minus)", "Pow", "Pow"),
        ("y = Pow (a, two)", None, None),
        ("y = Pow (a, half)", None, "Pow"),
        ("y = Sqrt (a)", None, "Sqrt"),
        ("y = Div (a, x)", None, None),
        ("b = Clip (a, tiny, top)   y = Log (b)", None, None),
        ("b = Add (a, tiny)   y = Log (b)", None, None),
        ("b = Exp (a)   y = Log (b)", None, None),
        ("y = Neg (a)", None, None),
    ],
)
def test_readers(body: str, pole: str | None, edge: str | None) -> None:
    assert readers(body) == (pole, edge)


@pytest.mark.parametrize("guard", ["m = Clip (p, tiny, top)", "m = Add (p, tiny)"])
def test_a_product_into_log_stays_float(guard: str) -> None:
    text = f"""f (float[b,16] x, float w, float u) => (float[b,8] y)
    {CONSTANTS} {{ h = MatMul (x, u)   p = MatMul (h, w)   {guard}   y = Log (m) }}"""
    plan = staged(with_weights(text, u=(16, 16), w=(16, 8))).plan
    assert plan.nodes["MatMul_h"].is_quantized
    reason = 'Log "Log_y" reads its result, and has none for the code of 0'
    assert plan.nodes["MatMul_p"].reason == reason


def test_an_int8_op_into_log_stays_float() -> None:
    text = """f (float[b,16] x, float w, float u) => (float[b,16] y, float[b,8] z)
    { h = MatMul (x, u)   s = Softmax (h)   y = Log (s)   z = MatMul (h, w) }"""
    plan = staged(with_weights(text, u=(16, 16), w=(16, 8))).plan
    assert "s" not in plan.activations
    assert plan.reasons["Log_y"].endswith("it has no result for the code of 0")
