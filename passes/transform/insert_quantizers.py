# SPDX-License-Identifier: Apache-2.0
"""Insert quantize–dequantize pairs on activations.

Static pairs come from calibration, dynamic ones stand before their product.

Before:
    { y = Relu (x)   z = Conv (y, w_dequantized) }
After:
    { y = Relu (x)   y_codes = QuantizeLinear (y, y_scale, y_zero_point)
      y_dequantized = DequantizeLinear (y_codes, y_scale, y_zero_point)
      z = Conv (y_dequantized, w_dequantized) }
Refuses: values that the plan leaves in float.

Every reader of a static value reads its codes. Fewer than 8 bits: a Clip of the codes follows
QuantizeLinear. Dynamic activations are com.qcompile::Quantize (one scale a row or sample), shared
by the products that read the same value.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.formats.scales import scale_format
from qcompile.graph import DOMAIN, FLOAT, add_initializer, is_op, new_node, replace
from qcompile.numerics.params import QuantParams
from qcompile.passes.transform.round_weights import quantize_attributes
from qcompile.passes.transform.stats import Work
from qcompile.spec import QuantSpec
from qcompile.step_tables import insert_bucket, insert_row


class InsertQuantizers(ir.passes.InPlacePass):
    """Static values first, then dynamic products."""

    stage = "transform"
    name = "insert_quantizers"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self._dynamic: dict[tuple[str, str], ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Every activation of the plan."""
        graph = model.graph
        found = {v.name: v for v in graph.inputs} | {v.name: v for n in graph for v in n.outputs}
        modified = False
        for name, spec in self.work.plan.activations.items():
            if name in found and not _is_static(found[name]):
                self._insert_static(graph, found[name], spec)
                modified = True
        for copy, name in self.work.plan.copies.items():
            if name in found and f"{copy}_codes" not in found:
                self._insert_copy(graph, found[name], copy)
        for node in list(graph):
            plan = self.work.plan.nodes.get(node.name or "")
            if plan is not None and plan.activation is not None and plan.activation.is_dynamic:
                modified |= self._insert_dynamic(graph, node, plan.activation)
        model.opset_imports.setdefault(DOMAIN, 1)
        return ir.passes.PassResult(model, modified)

    def _insert_static(self, graph: ir.Graph, value: ir.Value, spec: QuantSpec) -> None:
        self._place(graph, value, self._static_pair(graph, value, value.name or "", spec))

    def _insert_copy(self, graph: ir.Graph, value: ir.Value, copy: str) -> None:
        """Narrower codes of the dequantized value, for products with narrow activations."""
        quantize = next(u.node for u in value.uses() if is_op(u.node, "QuantizeLinear"))
        wide = _dequantized(quantize)[0]
        spec = self.work.plan.activations[copy]
        made = self._static_pair(graph, wide, copy, spec)
        producer = wide.producer()
        assert producer is not None
        readers = [u for u in wide.uses() if u.node is not made[0] and self._has(u.node, spec)]
        graph.insert_after(producer, made)
        for use in readers:
            use.node.replace_input_with(use.idx, made[-1].outputs[0])

    def _has(self, node: ir.Node, spec: QuantSpec) -> bool:
        plan = self.work.plan.nodes.get(node.name or "")
        activation = None if plan is None else plan.activation
        return activation is not None and activation.format == spec.format

    def _static_pair(
        self, graph: ir.Graph, value: ir.Value, name: str, spec: QuantSpec
    ) -> list[ir.Node]:
        """QuantizeLinear, a Clip below 8 bits, DequantizeLinear; not in the graph yet."""
        params = self.work.params(name)
        scales = np.array(params.scale if params.scales is None else params.scales, np.float32)
        points = np.full(scales.shape, params.zero_point, np.uint8)
        scale = self._scale(graph, name, params.steps, scales)
        point = add_initializer(graph, f"{name}_zero_point", points)
        axis: dict[str, Any] = {} if params.scales is None else {"axis": spec.axis}
        shape, uint8 = value.shape, ir.DataType.UINT8
        inserted = [
            new_node(
                "QuantizeLinear",
                [value, scale, point],
                f"{name}/quantize",
                f"{name}_codes",
                dtype=uint8,
                shape=shape,
                **axis,
            )
        ]
        if spec.bits < 8:
            low = add_initializer(graph, f"{name}_code_min", np.array(0, np.uint8))
            high = add_initializer(
                graph, f"{name}_code_max", np.array(spec.format.code_max, np.uint8)
            )
            codes = inserted[0].outputs[0]
            codes.name = f"{name}_wide_codes"
            inserted.append(
                new_node(
                    "Clip",
                    [codes, low, high],
                    f"{name}/clip",
                    f"{name}_codes",
                    dtype=uint8,
                    shape=shape,
                )
            )
        codes = inserted[-1].outputs[0]
        float_name = self.work.plan.copies.get(name, name)
        codes.metadata_props.update({"qcompile.spec": str(spec), FLOAT: float_name})
        back = new_node(
            "DequantizeLinear",
            [codes, scale, point],
            f"{name}/dequantize",
            f"{name}_dequantized",
            shape=shape,
            **axis,
        )
        return [*inserted, back]

    def _scale(
        self, graph: ir.Graph, name: str, steps: NDArray[np.float32] | None, scales: NDArray
    ) -> ir.Value:
        """The scale, or the row of the time step in a table of them."""
        if steps is None:
            return add_initializer(graph, f"{name}_scale", scales)
        assert self.work.stats.buckets is not None
        return insert_row(
            graph, insert_bucket(graph, self.work.stats.buckets), steps, f"{name}_scale"
        )

    def _place(self, graph: ir.Graph, value: ir.Value, inserted: list[ir.Node]) -> None:
        """The nodes after the value's producer; every other reader reads the last one's output."""
        producer, back = value.producer(), inserted[-1].outputs[0]
        scale = inserted[0].inputs[1]
        after = producer or (None if scale is None else scale.producer())
        if after is None:
            graph.insert_before(next(iter(graph)), inserted)
        else:
            graph.insert_after(after, inserted)
        replace(value, back)
        inserted[0].replace_input_with(0, value)

    def _insert_dynamic(self, graph: ir.Graph, node: ir.Node, spec: QuantSpec) -> bool:
        source = node.inputs[0]
        assert source is not None
        if is_op(source.producer(), "Dequantize", domain=DOMAIN):
            return False
        key = (source.name or "", str(spec))
        if key not in self._dynamic:
            same = sum(1 for name, _ in self._dynamic if name == source.name)
            self._dynamic[key] = self._dynamic_pair(graph, node, source, spec, same)
        node.replace_input_with(0, self._dynamic[key])
        return True

    def _dynamic_pair(
        self, graph: ir.Graph, node: ir.Node, source: ir.Value, spec: QuantSpec, same: int
    ) -> ir.Value:
        """same: how many pairs of other specs the source has."""
        name, attributes = f"{source.name}_{spec.granularity}", quantize_attributes(spec)
        name += f"_{same + 1}" if same else ""
        of_reach = {} if scale_format(spec.scale_format).unit == 1 else {"reach": spec.reach}
        quantize = ir.node(
            "Quantize",
            [source, None, None],
            attributes | of_reach,
            domain=DOMAIN,
            num_outputs=2,
            name=f"{name}/quantize",
        )
        codes, scale = quantize.outputs
        codes.name, scale.name = f"{name}_codes", f"{name}_scale"
        codes.type, scale.type = ir.TensorType(ir.DataType.INT8), ir.TensorType(ir.DataType.FLOAT)
        codes.shape = source.shape
        codes.metadata_props["qcompile.spec"] = str(spec)
        back = new_node(
            "Dequantize",
            [codes, scale],
            f"{name}/dequantize",
            f"{name}_dequantized",
            domain=DOMAIN,
            shape=source.shape,
            **attributes,
        )
        graph.insert_before(node, [quantize, back])
        return back.outputs[0]


def _dequantized(quantize: ir.Node) -> list[ir.Value]:
    """What the dequantizers of the codes give, a Clip between them or not."""
    ends = [u.node for u in quantize.outputs[0].uses()]
    ends += [u.node for n in ends if is_op(n, "Clip") for u in n.outputs[0].uses()]
    return [n.outputs[0] for n in ends if is_op(n, "DequantizeLinear")]


def _is_static(value: ir.Value) -> bool:
    """Whether the value, or the graph output that took its name, has its pair already."""
    if is_op(value.producer(), "DequantizeLinear"):
        return True
    return any(is_op(use.node, "QuantizeLinear") for use in value.uses())


def params_of(scale: ir.Value, zero_point: ir.Value, spec: QuantSpec) -> QuantParams:
    """The params that two initializers hold."""
    assert scale.const_value is not None and zero_point.const_value is not None
    return QuantParams(
        float(scale.const_value.numpy()), int(zero_point.const_value.numpy()), spec.format
    )
