# SPDX-License-Identifier: Apache-2.0
"""Windows of pools and convolutions that are larger than their maps, which ends the process in ORT.

ONNX Runtime's blocked pools (its NchwcTransformer makes them of pools of 8 channels and more)
divide by 0 where the window gives no output (1.32). So the sizes are inferred from those of the
samples before a run; where ONNX cannot infer them, pools are not blocked.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

from qcompile.array_session import ArraySession
from qcompile.errors import InputError
from qcompile.graph import attribute, is_op, static_shape
from qcompile.shape_inference import infer_shapes, without_weights

_SLIDING = ("Conv", "MaxPool", "AveragePool", "LpPool")
_BLOCKED = ("MaxPool", "AveragePool")
_ANY_SIZE = 64  # of free dimensions, to see whether sizes can be inferred at all
Shapes = Mapping[str, tuple[int, ...]]


class WindowedSession(ArraySession):
    """A session of a user's model; its `run` raises InputError where a window does not fit."""

    def __init__(self, outline: ir.Model | None, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._outline = outline
        self._fitting: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As ONNX Runtime's; each set of shapes is looked at once."""
        if self._outline is not None:
            found = ((name, getattr(x, "shape", None)) for name, x in input_feed.items())
            shapes = tuple((name, shape) for name, shape in found if isinstance(shape, tuple))
            if shapes not in self._fitting:
                refuse_misfits(list(misfits(sized(self._outline, dict(shapes)).graph)))
                self._fitting.add(shapes)
        return super().run(output_names, input_feed, run_options)


def open_windowed(
    model: ir.Model, source: Any, options: ort.SessionOptions
) -> ort.InferenceSession:
    """The session of `source`, the model's bytes or file, that no window ends."""
    providers, level = ["CPUExecutionProvider"], options.graph_optimization_level
    graphs = [*model.graphs(), *(f.graph for f in model.functions.values())]
    pools = sum(is_op(node, *_BLOCKED) for graph in graphs for node in graph)
    if not pools or level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL:
        return ArraySession(source, options, providers=providers)
    outline = without_weights(model)
    if _are_inferable(outline, pools):
        return WindowedSession(outline, source, options, providers=providers)
    plain = ["NchwcTransformer"]
    return ArraySession(source, options, providers=providers, disabled_optimizers=plain)


def _are_inferable(outline: ir.Model, pools: int) -> bool:
    """Whether the maps of that many pools get sizes from the inputs'; those of bodies may not."""
    shapes = {
        v.name or "": tuple(d if isinstance(d, int) else _ANY_SIZE for d in v.shape)
        for v in outline.graph.inputs
        if v.shape is not None
    }
    nodes = [n for n in sized(outline, shapes).graph if is_op(n, *_BLOCKED)]
    known = [n for n in nodes if n.inputs[0] is not None and static_shape(n.inputs[0]) is not None]
    return len(known) == pools


def sized(model: ir.Model, shapes: Shapes) -> ir.Model:
    """A copy with the sizes that its values have where the inputs have these."""
    outline = without_weights(model)
    for node in outline.graph:
        for value in node.outputs:
            value.shape = None
    for value in outline.graph.inputs:
        if (shape := shapes.get(value.name or "")) is not None:
            value.shape = ir.Shape(shape)
    infer_shapes(outline)
    return outline


def refuse_misfits(found: list[str]) -> None:
    """InputError with the windows that do not fit, if there are any."""
    if found:
        shown = "\n  ".join(found[:8])
        raise InputError(
            "windows are larger than the maps of a sample: give larger samples, or correct the "
            f"model\n  {shown}"
        )


def misfits(graph: ir.Graph) -> Iterator[str]:
    """Windows larger than their padded map, so that ONNX gives them no output, a line each.

    With ceil_mode the last window may reach beyond the map by less than a stride.
    """
    for node in graph:
        shape = static_shape(node.inputs[0]) if is_op(node, *_SLIDING) and node.inputs[0] else None
        if shape is None or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            continue
        weight = node.inputs[1] if is_op(node, "Conv") else None
        of_weight = (static_shape(weight) or ())[2:] if weight is not None else ()
        kernel = tuple(attribute(node, "kernel_shape", ())) or of_weight
        rank = len(kernel)
        pads, sizes = attribute(node, "pads", (0,) * 2 * rank), shape[2:]
        dilations = attribute(node, "dilations", (1,) * rank)
        strides = attribute(node, "strides", (1,) * rank)
        is_ceil = bool(attribute(node, "ceil_mode", 0))
        for i, size in enumerate(sizes[:rank]):
            span = dilations[i] * (kernel[i] - 1) + 1
            if span - (size + pads[i] + pads[i + rank]) >= (strides[i] if is_ceil else 1):
                yield (
                    f'{node.op_type} "{node.name}" looks at {span} of {size} places of axis {i + 2}'
                    f", padded by {pads[i]} and {pads[i + rank]}"
                )
