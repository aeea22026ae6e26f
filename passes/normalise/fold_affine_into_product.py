# SPDX-License-Identifier: Apache-2.0
"""Fold a product or sum with a constant by output into the weighted product before it.

Before:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w = {2}, float[1,1,1,1] s = {3}, float[1] b = {1}>
    { c = Conv (x, w)   d = Mul (s, c)   y = Sub (d, b) }
After:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w_folded = {6}, float[1] c_bias = {-1}>
    { y = Conv (x, w_folded, c_bias) }
Refuses: another reader between the two; a constant that is not one number or one an output; a
constant minus or divided by the product; a division by 0; a mask, which is no data; a factor for a
weight that other nodes read; a weight that is not constant.

The bias of MatMul is an Add of a vector [N] behind it, and stays one.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    rank,
    replace,
)
from qcompile.passes.normalise.channel_statistics import change, drop, move
from qcompile.passes.normalise.rewiring import by_output, changed, dims, graph_of, sole_source
from qcompile.passes.rewrite import NodePass
from qcompile.products import is_mask

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Product:
    """A weighted product: its node, the node that reads the weight and where, and its bias.

    weight_axis: the axis of the outputs, within a group. adder: the Add that is MatMul's bias.
    """

    node: ir.Node
    reader: ir.Node
    index: int
    weight_axis: int
    adder: ir.Node | None

    @property
    def weight(self) -> ir.Value:
        """The constant."""
        found = self.reader.inputs[self.index]
        assert found is not None
        return found

    @property
    def group(self) -> int:
        """Groups whose outputs follow each other; they are an axis of their own only in one op."""
        is_grouped = is_op(self.node, "ConvTranspose")
        return int(attribute(self.node, "group", 1)) if is_grouped else 1

    @property
    def num_outputs(self) -> int:
        """N."""
        return dims(self.weight)[self.weight_axis] * self.group

    @property
    def channel(self) -> int:
        """The axis of the outputs in the result, counted from its end."""
        is_image = is_op(self.node, "Conv", "ConvTranspose")
        return 1 - len(dims(self.weight)) if is_image else -1


class FoldAffineIntoProduct(NodePass):
    """Mul, Div, Add and Sub."""

    stage = "normalise"
    op_types = ("Mul", "Div", "Add", "Sub")

    def match(self, node: ir.Node) -> tuple[Product, NDArray] | str | None:
        """The product and the constant as [N], or why they stay two."""
        at = next((i for i, v in enumerate(node.inputs) if is_constant(v)), None)
        if at is None:
            return None
        value, other = node.inputs[at], node.inputs[1 - at]
        product = _product_before(other)
        if product is None:
            return None
        if at == 0 and node.op_type in ("Sub", "Div"):
            return f"{node.op_type} of a constant by the product"
        if sole_source(other, "Add", *_PRODUCTS) is None:
            return f"{other.name if other is not None else ''} has another reader"
        if product.adder is not None and sole_source(product.node.outputs[0], "MatMul") is None:
            return f"{product.node.outputs[0].name} has another reader"
        vector = by_output(value, product.num_outputs, product.channel, rank(other))
        if vector is None or value is None:
            return "its constant is not one number or one an output"
        if is_mask(value):
            return "its constant is a mask"
        if node.op_type == "Div" and not vector.all():
            return "it divides by 0"
        is_factor = node.op_type in ("Mul", "Div")
        if is_factor and (len(list(product.weight.uses())) > 1 or not _is_alone(product)):
            return f"{product.weight.name} has another reader"
        bias = input_of(product.node, 2)
        if bias is not None and not is_constant(bias):
            return f"the bias {bias.name} is not constant"
        if attribute(product.node, "beta", 1.0) != 1.0:
            return "Gemm scales its bias"
        if product.adder is None and is_op(product.node, "MatMul") and not is_factor:
            return None if _is_plain(node, at) else (product, vector)
        return product, vector

    def rewrite(self, node: ir.Node, found: tuple[Product, NDArray]) -> None:
        """Weight and bias anew; the node goes, or is the bias of MatMul."""
        product, vector = found
        one, zero = np.ones_like(vector), np.zeros_like(vector)
        factor, shift = {
            "Mul": (vector, zero),
            "Div": (1 / vector, zero),
            "Add": (one, vector),
            "Sub": (one, -vector),
        }[node.op_type]
        if node.op_type in ("Mul", "Div"):
            _scale_weight(product, factor)
            _change_statistics(product, product.node.outputs[0], factor, zero)
        if is_op(product.node, "MatMul") and product.adder is None and shift.any():
            _as_plain_add(node, product, shift)
            return
        _set_bias(product, factor, shift)
        end = (product.adder or product.node).outputs[0]
        _change_statistics(product, end, one if end is product.node.outputs[0] else factor, shift)
        move(node.outputs[0], end)
        end.shape = node.outputs[0].shape
        replace(node.outputs[0], end)
        graph_of(node).remove(node, safe=True)


def _product_before(value: ir.Value | None) -> Product | None:
    """The weighted product that gives the value, with a constant matrix or kernel."""
    node = value.producer() if value is not None else None
    adder = None
    if is_op(node, "Add") and node is not None:
        inner = next((v for v in node.inputs if not is_constant(v)), None)
        before = inner.producer() if inner is not None else None
        if not is_op(before, "MatMul") or not any(
            is_constant(v) and rank(v) == 1 for v in node.inputs
        ):
            return None
        adder, node = node, before
    if node is None or not is_op(node, *_PRODUCTS):
        return None
    weight = node.inputs[1]
    if is_constant(weight):
        if is_op(node, "MatMul", "Gemm") and len(dims(weight)) != 2:
            return None
        is_nk = is_op(node, "Conv") or attribute(node, "transB", 0)
        return Product(node, node, 1, 0 if is_nk else 1, adder)
    turn = weight.producer() if weight is not None else None
    is_turned = is_op(node, "MatMul") and is_op(turn, "Transpose")
    if turn is None or not is_turned or not is_constant(turn.inputs[0]) or rank(weight) != 2:
        return None
    return Product(node, turn, 0, 0, adder)


def _is_alone(product: Product) -> bool:
    """Whether the Transpose of the weight has one reader."""
    return product.reader is product.node or len(list(product.reader.outputs[0].uses())) == 1


def _is_plain(node: ir.Node, at: int) -> bool:
    """Whether it is MatMul's bias as it should be: an Add of a vector."""
    value = node.inputs[at]
    product = _product_before(node.inputs[1 - at])
    assert product is not None
    return is_op(node, "Add") and dims(value) == (product.num_outputs,)


def _as_plain_add(node: ir.Node, product: Product, shift: NDArray) -> None:
    dtype = (product.weight.dtype or ir.DataType.FLOAT).numpy()
    name = f"{product.node.outputs[0].name}_bias"
    vector = add_initializer(graph_of(node), name, shift.astype(dtype))
    node.op_type = "Add"
    node.replace_input_with(0, product.node.outputs[0])
    node.replace_input_with(1, vector)


def _scale_weight(product: Product, factor: NDArray) -> None:
    weight, axis, group = product.weight, product.weight_axis, product.group
    size = dims(weight)

    def scale(w: NDArray) -> NDArray:
        wide = [1] * (len(size) + 1)
        wide[0], wide[axis + 1] = group, size[axis]
        parts = w.reshape(group, size[0] // group, *size[1:]) if group > 1 else w[None]
        return (parts * factor.astype(w.dtype).reshape(wide)).reshape(size)

    made = add_initializer(
        graph_of(product.node), f"{weight.name}_folded", changed(weight, size, scale)
    )
    product.reader.replace_input_with(product.index, made)


def _change_statistics(product: Product, value: ir.Value, factor: NDArray, shift: NDArray) -> None:
    """Statistics are by axis 1, which the outputs are in images and matrices."""
    if is_op(product.node, "Conv", "ConvTranspose") or rank(value) == 2:
        change(value, factor, shift)
    else:
        drop(value)


def _set_bias(product: Product, factor: NDArray, shift: NDArray) -> None:
    """b' = b · factor + shift, where the product has a bias or gets one."""
    owner = product.adder or product.node
    at = (
        2
        if product.adder is None
        else next(i for i, v in enumerate(owner.inputs) if is_constant(v))
    )
    bias = constant(input_of(owner, at))
    if bias is None and not shift.any():
        return
    old = np.zeros(()) if bias is None else bias.astype(np.float64)
    dtype = (product.weight.dtype or ir.DataType.FLOAT).numpy()
    made = (old * factor + shift).astype(dtype)
    if product.adder is None:
        owner.resize_inputs(3)
    name = f"{product.node.outputs[0].name}_bias"
    owner.replace_input_with(at, add_initializer(graph_of(owner), name, made))
