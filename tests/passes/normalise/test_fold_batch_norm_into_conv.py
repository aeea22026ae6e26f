# SPDX-License-Identifier: Apache-2.0
"""BatchNormalization goes into the Conv or Gemm before it; powers of two keep this exact."""

import numpy as np
import pytest

from qcompile.passes.normalise.fold_batch_norm_into_conv import FoldBatchNormIntoConv
from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import (
    assert_equal_outputs,
    assert_left_alone,
    assert_rewritten,
    feeds,
    parse,
    run,
)

# γ/σ = 2, 0.5: σ = √4 and √16.
NORM = "float[2] s = {4, 2}, float[2] b = {1, -1}, float[2] m = {3, -2}, float[2] v = {4, 16}"
APPLY = "BatchNormalization <epsilon = 0.0>"


def conv(text: str, output: str = "float[1,2,3,3] y", constants: str = "") -> str:
    """A graph on x [1,2,3,3] with a 1x1 weight w and the norm's constants."""
    return (
        f"f (float[1,2,3,3] x) => ({output}) "
        f"<float[2,2,1,1] w = {{1, -2, 3, 4}}, {NORM}{constants}> {{ {text} }}"
    )


def test_conv_without_bias() -> None:
    assert_rewritten(
        FoldBatchNormIntoConv(),
        conv(f"c = Conv (x, w)   y = {APPLY} (c, s, b, m, v)"),
        """f (float[1,2,3,3] x) => (float[1,2,3,3] y)
        <float[2,2,1,1] w_folded = {2, -4, 1.5, 2}, float[2] c_bias = {-5, 0}>
        { y = Conv (x, w_folded, c_bias) }""",
    )


def test_conv_with_bias_and_groups() -> None:
    assert_rewritten(
        FoldBatchNormIntoConv(),
        f"""f (float[1,2,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w = {{1, -2}}, float[2] k = {{8, 4}}, {NORM}>
        {{ c = Conv <group = 2> (x, w, k)   y = {APPLY} (c, s, b, m, v) }}""",
        """f (float[1,2,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w_folded = {2, -1}, float[2] c_bias = {11, 2}>
        { y = Conv <group = 2> (x, w_folded, c_bias) }""",
    )


def test_one_dimensional_conv() -> None:
    assert_rewritten(
        FoldBatchNormIntoConv(),
        f"""f (float[1,1,4] x) => (float[1,2,4] y) <float[2,1,1] w = {{1, -2}}, {NORM}>
        {{ c = Conv (x, w)   y = {APPLY} (c, s, b, m, v) }}""",
        """f (float[1,1,4] x) => (float[1,2,4] y)
        <float[2,1,1] w_folded = {2, -1}, float[2] c_bias = {-5, 0}>
        { y = Conv (x, w_folded, c_bias) }""",
    )


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_gemm(alpha: float) -> None:
    assert_rewritten(
        FoldBatchNormIntoConv(),
        f"""f (float[3,2] x) => (float[3,2] y)
        <float[2,2] w = {{1, 2, 3, 4}}, float[2] k = {{8, 4}}, {NORM}>
        {{ c = Gemm <transB = 1, alpha = {alpha}> (x, w, k)   y = {APPLY} (c, s, b, m, v) }}""",
        f"""f (float[3,2] x) => (float[3,2] y)
        <float[2,2] w_folded = {{2, 4, 1.5, 2}}, float[2] c_bias = {{11, 2}}>
        {{ y = Gemm <transB = 1, alpha = {alpha}> (x, w_folded, c_bias) }}""",
    )


def test_a_shared_weight_stays_for_the_other_conv() -> None:
    assert_rewritten(
        FoldBatchNormIntoConv(),
        conv(
            f"c = Conv (x, w)   y = {APPLY} (c, s, b, m, v)   z = Conv (x, w)",
            "float[1,2,3,3] y, float[1,2,3,3] z",
        ),
        """f (float[1,2,3,3] x) => (float[1,2,3,3] y, float[1,2,3,3] z)
        <float[2,2,1,1] w_folded = {2, -4, 1.5, 2}, float[2] c_bias = {-5, 0},
         float[2,2,1,1] w = {1, -2, 3, 4}>
        { y = Conv (x, w_folded, c_bias)   z = Conv (x, w) }""",
    )


def test_two_norms_of_one_shared_weight() -> None:
    text = conv(
        f"c = Conv (x, w)   y = {APPLY} (c, s, b, m, v)   d = Conv (x, w)   "
        f"z = {APPLY} (d, b, s, m, v)",
        "float[1,2,3,3] y, float[1,2,3,3] z",
    )
    model = parse(text)
    assert FoldBatchNormIntoConv()(model).modified
    assert [n.op_type for n in model.graph] == ["Conv", "Conv"]
    assert_equal_outputs(parse(text), model)


def test_norm_after_norm_folds_twice() -> None:
    text = conv(f"c = Conv (x, w)   d = {APPLY} (c, s, b, m, v)   y = {APPLY} (d, s, b, m, v)")
    model = parse(text)
    assert FoldBatchNormIntoConv()(model).modified
    assert [n.op_type for n in model.graph] == ["Conv"]
    assert_equal_outputs(parse(text), model)


def test_half_precision_stays_half() -> None:
    model = parse(
        conv(f"c = Conv (x, w)   y = {APPLY} (c, s, b, m, v)").replace("float[", "float16[")
    )
    assert FoldBatchNormIntoConv()(model).modified
    weight, bias = next(iter(model.graph)).inputs[1:]
    assert weight.const_value.numpy().dtype == bias.const_value.numpy().dtype == np.float16


def test_a_wrong_weight_is_seen() -> None:
    before = parse(conv(f"c = Conv (x, w)   y = {APPLY} (c, s, b, m, v)"))
    after = before.clone()
    FoldBatchNormIntoConv()(after)
    RemoveUnused()(after)
    folded = after.graph.initializers["w_folded"].const_value.numpy()
    folded[0, 0, 0, 0] += 2.0**-10
    feed = feeds(before, 0)
    assert not np.array_equal(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            conv(
                f"c = Conv (x, w)   y = {APPLY} (c, s, b, m, v)   z = Relu (c)",
                "float[1,2,3,3] y, float[1,2,3,3] z",
            ),
            "c has another reader",
        ),
        (
            conv(
                f"c = Conv (x, w)   y = {APPLY} (c, s, b, m, v)",
                "float[1,2,3,3] y, float[1,2,3,3] c",
            ),
            "c has another reader",
        ),
        (
            conv(
                "c = Conv (x, w)   y, n, o = BatchNormalization <training_mode = 1> (c, s, b, m, v)"
            ),
            "training mode",
        ),
        (
            conv(
                f"g = Neg (w)   h = Mul (g, x)   j = ReduceSum <keepdims = 1> (h)   "
                f"l = Mul (w, j)   c = Conv (x, l)   y = {APPLY} (c, s, b, m, v)"
            ),
            "a weight or a statistic is not constant",
        ),
        (
            f"""f (float[3,2] x, float[2] mean) => (float[3,2] y)
            <float[2,2] w = {{1, 2, 3, 4}}, {NORM}>
            {{ c = Gemm <transB = 1> (x, w)   y = {APPLY} (c, s, b, mean, v) }}""",
            "a weight or a statistic is not constant",
        ),
        (
            f"""f (float[3,2] x) => (float[3,2] y) <float[2,2] w = {{1, 2, 3, 4}}, {NORM}>
            {{ c = Gemm (x, w)   y = {APPLY} (c, s, b, m, v) }}""",
            "Gemm has its weight as [K, N]",
        ),
        (
            f"""f (float[3,2] x) => (float[3,2] y)
            <float[2,2] w = {{1, 2, 3, 4}}, float[2] k = {{1, 1}}, {NORM}>
            {{ c = Gemm <transB = 1, beta = 0.5> (x, w, k)   y = {APPLY} (c, s, b, m, v) }}""",
            "Gemm scales its bias",
        ),
        (conv(f"c = Relu (x)   y = {APPLY} (c, s, b, m, v)"), None),
        (conv(f"y = {APPLY} (x, s, b, m, v)"), None),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FoldBatchNormIntoConv(), text, reason)
