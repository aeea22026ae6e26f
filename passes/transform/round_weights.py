# SPDX-License-Identifier: Apache-2.0
"""Round weights to the codes of their spec: the weight becomes a Dequantize of codes.

Before:
    { y = Conv (x, w) }
After:
    { w_dequantized = DequantizeLinear <axis = 0> (w_codes, w_scale)   y = Conv (x, w_dequantized) }
Refuses: nodes that the plan leaves in float.

Codes of every width travel as INT8 (uint8 as UINT8) in plain DequantizeLinear, so every ORT runs
the graph; blocks and table formats use com.qcompile::Dequantize. The spec stands on the value
(`qcompile.spec`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import DOMAIN, FLOAT, add_initializer, is_op, new_node
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.stats import Work
from qcompile.plan import WEIGHTED_OPS
from qcompile.products import weight_of
from qcompile.spec import QuantSpec


class RoundWeights(NodePass):
    """Weights of quantized nodes, shared ones once."""

    stage = "transform"
    op_types = WEIGHTED_OPS

    def __init__(self, work: Work, store: CodeStore) -> None:
        super().__init__()
        self.work, self.store = work, store
        self._done: dict[str, ir.Value] = {}

    def match(self, node: ir.Node) -> ir.Value | None:
        """The weight's value."""
        plan = self.work.plan.nodes.get(node.name or "")
        return weight_of(node) if plan is not None and plan.is_quantized else None

    def rewrite(self, node: ir.Node, found: ir.Value) -> None:
        """The node (or the Transpose it reads through) reads the dequantized codes."""
        name = found.name or ""
        if name not in self._done:
            self._done[name] = self._dequantized(node, found)
        reader, index = node, 0 if is_op(node, "Gather") else 1
        direct = node.inputs[index]
        if direct is not found:
            assert direct is not None
            reader, index = direct.producer(), 0  # type: ignore[assignment]
        if reader.inputs[index] is found:
            reader.replace_input_with(index, self._done[name])

    def _dequantized(self, node: ir.Node, value: ir.Value) -> ir.Value:
        plan = self.work.plan.nodes[node.name or ""]
        spec = plan.weight
        graph, tensor, name = node.graph, value.const_value, value.name or ""
        assert isinstance(graph, ir.Graph) and tensor is not None and spec is not None
        self.store.add(name, tensor, spec, is_exact=plan.is_exact)
        codes, scale, zero_point = lazy_parts(self.store, name, tuple(value.shape or ()), spec)  # type: ignore[arg-type]
        inputs: list[ir.Value | None] = [
            add_initializer(graph, f"{name}_codes", codes),
            add_initializer(graph, f"{name}_scale", scale),
        ]
        if zero_point is not None:
            inputs.append(add_initializer(graph, f"{name}_zero_point", zero_point))
        out = f"{name}_dequantized"
        dequantize = dequantize_node(spec, inputs, f"{name}/dequantize", out)
        dequantize.outputs[0].shape = value.shape
        dequantize.outputs[0].metadata_props.update({"qcompile.spec": str(spec), FLOAT: name})
        first = next(n for n in graph if any(u.node is n for u in value.uses()))
        graph.insert_before(first, dequantize)
        return dequantize.outputs[0]


def container(spec: QuantSpec) -> ir.DataType:
    """What the codes travel as."""
    return ir.DataType.UINT8 if spec.format.name == "uint8" and is_plain(spec) else ir.DataType.INT8


def is_plain(spec: QuantSpec) -> bool:
    """Whether ONNX's own DequantizeLinear says it."""
    has_values = spec.format.is_table or spec.format.has_codebook
    return spec.granularity in ("tensor", "axis") and not has_values


def dequantize_node(
    spec: QuantSpec, inputs: list[ir.Value | None], name: str, output: str
) -> ir.Node:
    """DequantizeLinear where ONNX has it, else com.qcompile::Dequantize."""
    if is_plain(spec):
        axis: dict[str, Any] = {"axis": spec.axis} if spec.granularity == "axis" else {}
        return new_node("DequantizeLinear", inputs, name, output, **axis)
    return new_node("Dequantize", inputs, name, output, domain=DOMAIN, **quantize_attributes(spec))


def quantize_attributes(spec: QuantSpec) -> dict:
    """The attributes of com.qcompile::Quantize and Dequantize (docs/ops.md)."""
    attributes: dict = {
        "bits": spec.bits,
        "is_signed": int(spec.format.is_signed and not spec.format.is_table),
        "granularity": spec.granularity,
        "axis": spec.axis,
        "block_size": spec.block_size,
    }
    if spec.format.levels is not None:
        attributes["levels"] = spec.format.levels
    if spec.format.has_codebook:
        attributes["has_codebook"] = 1
    if spec.format.special_code is not None:
        attributes["special_code"] = spec.format.special_code
    if spec.format.table is not None:
        attributes["table"] = [float(v) for v in spec.format.table]
    return attributes


def lazy_parts(
    store: CodeStore, name: str, dims: tuple[int, ...], spec: QuantSpec
) -> tuple[ir.LazyTensor, ir.LazyTensor, ir.LazyTensor | None]:
    """Codes in the weight's own shape, scales and zero points, as tensors computed when read.

    Of a codebook the levels stand for the scales.
    """
    dtype = container(spec)
    columns = int(np.prod(dims[1:]))
    blocks = -(-columns // spec.block_size) if spec.granularity == "block" else 1
    per = {"tensor": (), "axis": (dims[0],)}.get(spec.granularity, (dims[0], blocks))

    def lazily(kind: ir.DataType, shape: tuple, part: Callable[[], NDArray]) -> ir.LazyTensor:
        return ir.LazyTensor(
            lambda: ir.tensor(np.ascontiguousarray(part().reshape(shape))),
            kind,
            ir.Shape(shape),
        )

    def first(values: NDArray | None) -> NDArray:
        assert values is not None
        return values[:1] if spec.granularity == "tensor" else values

    codes = lazily(dtype, dims, lambda: store.codes(name, dtype.numpy()))
    if spec.format.has_codebook:
        each = (dims[0], blocks, spec.format.num_codes)
        return codes, lazily(ir.DataType.FLOAT, each, lambda: first(store.get(name).levels)), None
    scale = lazily(ir.DataType.FLOAT, per, lambda: first(store.get(name).scale))
    if spec.is_symmetric and not spec.format.specials:
        return codes, scale, None
    points = lazily(dtype, per, lambda: first(store.get(name).zero_point).astype(dtype.numpy()))
    return codes, scale, points
