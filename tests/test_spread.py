# SPDX-License-Identifier: Apache-2.0
"""Which values become codes, whose statistics they share, and why others stay float."""

import pytest

from qcompile.plan import Plan
from tests.passes.stages import staged, with_weights

SHAPES = {"w": (4, 4, 1, 1), "u": (4, 4, 1, 1)}
MASK = ", ".join(["0", "-1000000000"] * 18)
ONE = "float[b,n,h,k] y"
TWO = "float[b,n,h,k] y, float[b,n,h,k] z"


def plan_of(body: str, outputs: str = ONE, *, gives_floats: bool = True) -> Plan:
    """The plan of a net on x with the 1x1 convolutions w and u."""
    text = f"""f (float[b,4,6,6] x, float w, float u) => ({outputs})
    <float half = {{0.5}}, float[1,1,6,6] mask = {{{MASK}}},
     float[4] twice = {{1, 1, 2, 2}}, int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}},
     float[6,6] square = {{{", ".join(["1"] * 36)}}}, float[6] six = {{1, 1, 1, 1, 1, 1}}>
    {{ c = Conv (x, w)   {body} }}"""
    return staged(with_weights(text, **SHAPES), gives_floats=gives_floats).plan


def test_a_result_that_no_product_reads_stays_float() -> None:
    body = "d = Conv (c, u)   a = Add (c, d)   y = MaxPool <kernel_shape = [2,2]> (a)"
    plan = plan_of(body)
    assert set(plan.activations) == {"x", "c"}
    assert plan.reasons == {
        "Add_a": "Add: no quantized product reads its result",
        "MaxPool_y": "MaxPool: no quantized product reads its result",
    }
    plan = plan_of(body, gives_floats=False)
    assert set(plan.activations) == {"x", "c", "d", "a", "y"}
    assert plan.leaders["y"] == "a"


def test_inside_a_function_nothing_is_quantized() -> None:
    plan = plan_of("s = Sigmoid (c)   m = Mul (c, s)   n = Tanh (m)   y = Conv (n, u)")
    assert set(plan.activations) == {"x", "c", "n"}
    assert plan.reasons == {}


def test_a_function_that_leads_to_floats_only() -> None:
    plan = plan_of("s = Sigmoid (c)   y = LogSoftmax (s)   z = Conv (c, u)", TWO)
    assert set(plan.activations) == {"x", "c"}
    assert plan.reasons == {"LogSoftmax_y": "LogSoftmax has no int8 kernel"}


# body (m is read by a product), reason
REASONS = {
    "mask": ("m = Add (c, mask)", "Add: its other operand is a constant that sets no range"),
    "float": ("g = LogSoftmax (x)   m = Add (c, g)", "Add: one of its inputs is not quantized"),
    "concat": (
        "g = LogSoftmax (x)   m = Concat <axis = 2> (c, g)",
        "Concat: one of its inputs is not quantized",
    ),
    "cubic": (
        'm = Resize <mode = "cubic"> (c, , twice)',
        "Resize: mode cubic has no int8 kernel",
    ),
    "pad": ("m = Pad (c, pads, half)", "Pad: pads with something other than 0"),
    "softmax": ("m = LogSoftmax (c)", "LogSoftmax has no int8 kernel"),
    "axis": ("m = Softmax <axis = 2> (c)", "Softmax: over axis 2"),
    "axes": (
        "m = LayerNormalization <axis = 2> (c, square)",
        "LayerNormalization: over the axes from 2 on, not the last alone",
    ),
    "stream": (
        "l = LayerNormalization (c, six)   m = Add (l, c)",
        "LayerNormalization: other nodes read its input too, and a residual stream stays float",
    ),
    "division": (
        "d = Conv (c, u)   m = Div (c, d)",
        "Div: it is no function of one tensor of known rank and of numbers",
    ),
    "indices": (
        "n, i = MaxPool <kernel_shape = [2,2]> (c)   e = Cast <to = 1> (i)   m = Add (n, e)",
        "MaxPool: its indices are read",
    ),
}


@pytest.mark.parametrize(("body", "reason"), REASONS.values(), ids=REASONS)
def test_reasons(body: str, reason: str) -> None:
    plan = plan_of(f"{body}   y = Conv (m, u)")
    assert reason in plan.reasons.values()
    assert plan.leaders["m"] == "m"


def test_a_mask_sets_no_range() -> None:
    """The masked scores are no input of a product, and the scores need no codes for them."""
    plan = plan_of("m = Add (c, mask)   s = Softmax (m)   y = Conv (s, u)")
    assert set(plan.activations) == {"x", "s"}


def test_a_chain_is_one_op() -> None:
    """A LayerNormalization as older exporters write it: nothing inside has codes, or a reason."""
    body = """m = ReduceMean <axes = [-1]> (c)   d = Sub (c, m)   s = Mul (d, d)
    v = ReduceMean <axes = [-1]> (s)   t = Add (v, half)   r = Sqrt (t)   q = Div (d, r)
    a = Mul (q, six)   n = Add (a, six)"""
    plan = plan_of(f"{body}   y = Conv (n, u)")
    assert set(plan.activations) == {"x", "c", "n"}
    assert plan.reasons == {}


def test_rows_stay_float_where_the_target_has_no_kernel() -> None:
    text = """f (float[b,4,6,6] x, float w, float u) => (float[b,n,h,k] y)
    { c = Conv (x, w)   s = Softmax (c)   y = Conv (s, u) }"""
    plan = staged(with_weights(text, **SHAPES), target="ort").plan
    assert plan.reasons == {"Softmax_s": "Softmax has no int8 kernel"}


def test_concat_shares_the_scale_of_what_only_it_reads() -> None:
    plan = plan_of("d = Conv (c, u)   m = Concat <axis = 2> (c, d)   y = Conv (m, w)")
    assert plan.leaders["d"] == "m"
    assert plan.leaders["c"] == "c"
