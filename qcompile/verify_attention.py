# SPDX-License-Identifier: Apache-2.0
"""The rungs of verify for attention: its results against the float attention of the same codes.

N30 and N32 round the exponentials to 8 bits, N43 to its levels, which the QDQ graph does not, so
that more codes are apart than those of other nodes. How far is computed from the operands.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import DOMAIN, attribute, is_op
from qcompile.numerics.attention import rounding_bound, scores_of, share_heads
from qcompile.numerics.dynamic_attention import as_computed
from qcompile.pieces import as_nchw, qdq_piece, source_names
from qcompile.reference import activation_inputs, attention_numbers, attention_operands
from qcompile.verdict import Check

NAME = "lower: QDQ, attention"
DYNAMIC_NAME = "lower: QDQ, dynamic attention"


def attention_nodes(packed: ir.Model) -> list[ir.Node]:
    """The static ones."""
    return [n for n in packed.graph if is_op(n, "QAttention", domain=DOMAIN)]


def dynamic_nodes(packed: ir.Model) -> list[ir.Node]:
    """Those that make codes of floats themselves."""
    return [n for n in packed.graph if is_op(n, "QDynamicAttention", domain=DOMAIN)]


def check_attention(
    packed: ir.Model,
    quantized: ir.Model,
    runs: Sequence[dict[str, NDArray]],
    count_node: Callable[[], None] = lambda: None,
) -> list[Check]:
    """|code − code of ORT's float attention| ÷ (N30's rounding + that of float sums + 1 code).

    runs: the values of the artifact by name.
    """

    def fed(node: ir.Node, inputs: list[NDArray]) -> tuple[list[NDArray], NDArray]:
        return list(share_heads(*attention_operands(node, inputs)[:3])), 1 + _bound(node, inputs)

    text = "|difference from float attention| ÷ the rounding of N30 or N43, in codes"
    nodes = attention_nodes(packed)
    return _check(NAME, text, nodes, quantized, runs, count_node, fed)


def check_dynamic_attention(
    packed: ir.Model,
    quantized: ir.Model,
    runs: Sequence[dict[str, NDArray]],
    count_node: Callable[[], None] = lambda: None,
) -> list[Check]:
    """|value − ORT's float attention of the dequantized codes| ÷ the bound of N32's rounding.

    The codes of q, k and v are those of N4, to which "lower: floats" holds the op.
    """

    def fed(node: ir.Node, inputs: list[NDArray]) -> tuple[list[NDArray], NDArray]:
        operands = attention_operands(node, inputs)
        found, bound = as_computed(*operands, float(attribute(node, "multiplier")))
        return list(found), bound

    text = "|difference from float attention of the codes| ÷ the rounding of N32"
    nodes = dynamic_nodes(packed)
    return _check(DYNAMIC_NAME, text, nodes, quantized, runs, count_node, fed)


def _check(
    name: str,
    text: str,
    nodes: list[ir.Node],
    quantized: ir.Model,
    runs: Sequence[dict[str, NDArray]],
    count_node: Callable[[], None],
    fed: Callable[[ir.Node, list[NDArray]], tuple[list[NDArray], NDArray]],
) -> list[Check]:
    """The worst difference ÷ its bound; `fed` gives q, k and v of the float attention, and that."""
    worst, where, count = 0.0, "", 0
    for node in nodes:
        piece = qdq_piece(quantized, node)
        count_node()
        for run in runs:
            inputs = [run[v.name or ""] for v in activation_inputs(node)]
            operands, bound = fed(node, inputs)
            feed = dict(zip(source_names(node), [*operands, *inputs[3:]], strict=True))
            expected = piece.run(None, feed)[0].astype(np.float64)
            actual = as_nchw(node, run[node.outputs[0].name or ""])
            count += expected.size
            if actual.shape != expected.shape:
                worst, where = float("inf"), node.name or ""
                continue
            with np.errstate(invalid="ignore", divide="ignore"):
                gap = np.abs(expected - actual)
                ratio = np.nan_to_num(gap / bound, nan=np.inf)
            # A row that sees nothing has no bound: float gives NaN, and N30 and N32 a number.
            ratio = np.where(np.isnan(bound) | (gap == 0), 0.0, ratio)
            if ratio.max(initial=0) > worst:
                worst, where = float(ratio.max()), node.name or ""
    return [Check(name, worst, 1.0, text, where, count)] if nodes else []


def _bound(node: ir.Node, inputs: list[NDArray]) -> NDArray[np.float64]:
    """The own rounding of N30 or N43, and what errors of the float scores change.

    A score is (D + 6) · 2^-23 · (Σ |q| |k| · multiplier + |score|) off at most, and the output
    twice that times the largest distance of two values.
    """
    numbers = attention_numbers(node)
    *given, mask = attention_operands(node, inputs)
    q, k, v = share_heads(*given)
    bound = rounding_bound(q, k, v, mask, numbers)
    if not bound.size:
        return bound
    largest = np.abs(scores_of(q, k, mask, numbers).max(-1, keepdims=True)).astype(np.float64)
    points = (numbers.q_zero_point, numbers.k_zero_point)
    sizes = [np.abs(x.astype(np.float64) - z) for x, z in zip((q, k), points, strict=True)]
    sums = (sizes[0] @ sizes[1]).max(-1, keepdims=True) * abs(numbers.multiplier)
    error = (q.shape[-1] + 6) * 2.0**-23 * (sums + largest)
    return np.asarray(bound + 2 * error * 255 * abs(numbers.y_multiplier))
