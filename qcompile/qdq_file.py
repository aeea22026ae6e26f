# SPDX-License-Identifier: Apache-2.0
"""--qdq-out: the quantized model as one standard ONNX file, codes in ONNX's own types.

Every weight in codes is a DequantizeLinear of its type (formats/onnx_types.py), blocks along K with
block_size; integers and tables that ONNX has no type for are the integers themselves in INT8,
UINT8 or INT16. Scales of E8M0 stay such, UE4M3 are E4M3 codes in units of a float behind a
DequantizeLinear of their own, all others are float32. The opset is raised as far as the types ask.
Each weight that is written is decoded by ml_dtypes and compared with what its codes mean.
"""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.decoded_copy import stored
from qcompile.errors import InputError, VerificationError
from qcompile.formats import Format, scale_format
from qcompile.formats.onnx_types import ONNX_TYPES, OPSET_OF_BLOCKS, OPSET_OF_TYPE
from qcompile.graph import DOMAIN, add_initializer, constant, input_of, is_op, new_node
from qcompile.numerics.quantize import dequantize
from qcompile.spec import QuantSpec

_LARGEST_FILE = 1 << 30  # bytes; larger ones get a file of weights beside them
_IR_VERSIONS = ((28, 14), (25, 13), (24, 12), (23, 11), (21, 10))  # from opset, IR version


@dataclass(frozen=True)
class Coded:
    """A weight of the QDQ graph: its codes in the order of the graph, scales, points and spec."""

    codes: NDArray
    scale: NDArray[np.float32]
    point: NDArray | None
    spec: QuantSpec

    @classmethod
    def of(cls, back: ir.Node) -> "Coded | None":
        """What a node dequantizes from constants that qcompile made; None of others."""
        text = back.outputs[0].metadata_props.get("qcompile.spec")
        if not is_op(back, "DequantizeLinear") and not is_op(back, "Dequantize", domain=DOMAIN):
            return None
        codes, scale = constant(back.inputs[0]), constant(back.inputs[1])
        if text is None or codes is None or scale is None:
            return None
        spec = QuantSpec.parse(text)
        point = constant(input_of(back, 2))
        wide = [
            None if v is None else v.astype(np.int16) & (0xFF if spec.format.code_max > 127 else -1)
            for v in (codes, point)
        ]
        assert wide[0] is not None
        return cls(wide[0], np.asarray(scale, np.float32), wide[1], spec)

    def numbers(self) -> NDArray[np.float32]:
        """What the codes mean (N1), by numerics, float32 of their shape."""
        rows = self.codes.reshape(len(self.codes), -1)
        parts = [self.scale, np.zeros(1, np.int16) if self.point is None else self.point]
        if self.spec.granularity == "block":
            size = self.spec.block_size
            whole = [np.repeat(v, size, axis=1) if v.ndim == 2 else v for v in parts]
            parts = [v[:, : rows.shape[1]] if v.ndim == 2 else v for v in whole]
        else:
            parts = [v.reshape(-1, 1) for v in parts]
        found = dequantize(rows, parts[0], parts[1], self.spec.format)
        return found.reshape(self.codes.shape)

    def element(self) -> tuple[str, NDArray, float]:
        """ONNX's type, the codes in it, and what 1 of it is worth in units of the scale."""
        format = self.spec.format
        if format.special_code is not None or format.has_codebook:
            raise InputError(f"--qdq-out: {format} has values that ONNX has no type for")
        name = ONNX_TYPES.get(format.name)
        if name is not None:
            dtype = ir.DataType[name].numpy()
            if format.is_table:
                return name, self.codes.astype(np.uint8).view(dtype), 1 / format.table_scale
            return name, self.codes.astype(dtype), 1.0
        values = format.values[self.codes - format.code_min]
        name = _integer_type(format)
        return name, values.astype(ir.DataType[name].numpy()), 1.0


def _integer_type(format: Format) -> str:
    """The type of a format's values as integers."""
    values = format.values.astype(np.int64)
    for name in ("INT8", "UINT8", "INT16"):
        info = np.iinfo(ir.DataType[name].numpy())
        if info.min <= values.min() and values.max() <= info.max:
            return name
    raise InputError(
        f"--qdq-out: {format} has no type in ONNX, and its values are no integers of 16 bits: "
        "take another format"
    )


def check_qdq(path: str | Path, *, force: bool) -> None:
    """InputError for what can be refused before the model is read."""
    if Path(path).exists() and not force:
        raise InputError(f"--qdq-out: {path} is there already: give --force, or another name")


def write_qdq(quantized: ir.Model, path: str | Path) -> None:
    """Write the QDQ graph. InputError where ONNX cannot say it; VerificationError where it differs.

    quantized: as transform and tuning leave it. path: of the file, which is replaced as a whole.
    """
    _refuse_run_time(quantized)
    model = quantized.clone()
    backs = [(node, coded) for node in model.graph if (coded := Coded.of(node)) is not None]
    typed = {node.outputs[0].name or "": (coded, *coded.element()) for node, coded in backs}
    opset = max([model.graph.opset_imports[""], *(_opset(*each) for each in typed.values())])
    model = _raised(model, [node for node, _ in backs], opset)
    for name, each in typed.items():
        _put(model.graph, name, *each)
    model.graph.sort()
    _check(model, {name: each[0] for name, each in typed.items()})
    _save(model, Path(path))


def _refuse_run_time(model: ir.Model) -> None:
    """What no node of ONNX does, and bodies, whose opset is not raised."""
    nodes = [n for n in model.graph.all_nodes() if n.domain == DOMAIN]
    dynamic = [n.outputs[0].name for n in nodes if n.op_type != "Dequantize"]
    if dynamic:
        raise InputError(
            f"--qdq-out: ONNX has no op that finds scales at run time, as for {dynamic[0]}"
            f"{f' and {len(dynamic) - 1} more' if len(dynamic) > 1 else ''}: take a preset with "
            "a16 or static activations"
        )
    inner = [n for n in model.graph.all_nodes() if n.graph is not model.graph]
    held = [n for n in inner if "qcompile.spec" in n.outputs[0].metadata_props]
    if held:
        raise InputError(f"--qdq-out: {held[0].outputs[0].name} is in a body of If, Loop or Scan")


def _opset(coded: Coded, kind: str, codes: NDArray, unit: float) -> int:
    needed = [OPSET_OF_TYPE.get(kind, 21), 13]
    if coded.spec.granularity == "block":
        needed.append(OPSET_OF_BLOCKS)
        if scale_format(coded.spec.scale_format).stored_as == "e8m0":
            needed.append(OPSET_OF_TYPE["FLOAT8E8M0"])
    return max(needed)


def _raised(model: ir.Model, backs: list[ir.Node], opset: int) -> ir.Model:
    """The model in the opset, with inputs in place of the weights in codes."""
    graph = model.graph
    for back in backs:
        old = back.outputs[0]
        value = ir.Value(name=old.name, type=old.type, shape=old.shape)
        old.replace_all_uses_with(value)
        old.name = f"{old.name}/old"
        graph.remove(back, safe=True)
        graph.inputs.append(value)
    for name, held in list(graph.initializers.items()):
        if not held.uses() and not held.is_graph_output() and not held.is_graph_input():
            del graph.initializers[name]
    _forget(model)
    if graph.opset_imports[""] >= opset:
        return model
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), opset)
    except Exception as error:  # of many types, all with a message
        raise InputError(f"--qdq-out: the model does not go to opset {opset}: {error}") from None
    raised = ir.from_proto(proto)
    versions = [version for first, version in _IR_VERSIONS if opset >= first]
    raised.ir_version = max(raised.ir_version, model.ir_version, *versions[:1])
    return raised


def _forget(model: ir.Model) -> None:
    """The metadata of compilation, which no other tool reads."""
    for node in model.graph.all_nodes():
        _drop(node.metadata_props)
        for out in node.outputs:
            _drop(out.metadata_props)
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        _drop(value.metadata_props)
    model.graph.opset_imports.pop(DOMAIN, None)


def _drop(metadata: dict[str, str]) -> None:
    for key in [k for k in metadata if k.startswith("qcompile.")]:
        del metadata[key]


def _put(graph: ir.Graph, name: str, coded: Coded, kind: str, codes: NDArray, unit: float) -> None:
    """The weight as a DequantizeLinear in place of the input of its name."""
    value = next(v for v in graph.inputs if v.name == name)
    graph.inputs.remove(value)
    spec, first = coded.spec, next(iter(graph))
    attributes: dict[str, Any] = {"axis": spec.axis} if spec.granularity != "tensor" else {}
    if spec.granularity == "block":
        attributes["block_size"] = spec.block_size
    scale, made = _scale(graph, name, coded, unit)
    if scale.dtype != ir.DataType.FLOAT:
        attributes["output_dtype"] = int(ir.DataType.FLOAT)
    inputs = [_typed(graph, f"{name}_{kind.lower()}", codes, kind), scale]
    if coded.point is not None:
        point = coded.point.astype(codes.dtype)
        inputs.append(_typed(graph, f"{name}_{kind.lower()}_zero_point", point, kind))
    value.name = f"{name}/input"
    back = new_node("DequantizeLinear", inputs, f"{name}/dequantize", name, **attributes)
    back.outputs[0].shape = value.shape
    value.replace_all_uses_with(back.outputs[0])
    graph.insert_before(first, [*made, back])


def _scale(graph: ir.Graph, name: str, coded: Coded, unit: float) -> tuple[ir.Value, list[ir.Node]]:
    """Scales in the type of their format where that is exact, and the node that decodes them."""
    real = np.asarray(coded.scale * np.float32(unit), np.float32)
    form = scale_format(coded.spec.scale_format)
    if form.stored_as == "e8m0":
        powers = real.astype(ml_dtypes.float8_e8m0fnu)
        if np.array_equal(powers.astype(np.float32), real):
            return _typed(graph, f"{name}_scale", powers, "FLOAT8E8M0"), []
    if form.stored_as == "ue4m3":
        one = np.float32(form.unit * np.float32(unit))
        codes = (real / one).astype(ml_dtypes.float8_e4m3fn)
        if np.array_equal(codes.astype(np.float32) * one, real):
            stored_codes = _typed(graph, f"{name}_scale_codes", codes, "FLOAT8E4M3FN")
            whole = add_initializer(graph, f"{name}_scale_unit", np.array(one))
            inputs = [stored_codes, whole]
            back = new_node("DequantizeLinear", inputs, f"{name}_scale/dequantize", f"{name}_scale")
            back.outputs[0].shape = ir.Shape(real.shape)
            return back.outputs[0], [back]
    return add_initializer(graph, f"{name}_scale", real), []


def _typed(graph: ir.Graph, name: str, array: NDArray, kind: str) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array), dtype=ir.DataType[kind], name=name)
    return add_initializer(graph, name, tensor)


def _check(model: ir.Model, wanted: dict[str, Coded]) -> None:
    """What is written means what the codes mean."""
    backs: Iterable[ir.Node] = (n for n in model.graph if n.outputs[0].name in wanted)
    for back in backs:
        name, parts = back.outputs[0].name or "", stored(back)
        if parts is None or not np.array_equal(parts.numbers(), wanted[name].numbers()):
            raise VerificationError(f"--qdq-out: {name} does not mean what its codes mean")


def _save(model: ir.Model, path: Path) -> None:
    tensors = [v.const_value for v in model.graph.initializers.values()]
    size = sum(t.nbytes for t in tensors if t is not None)
    data = None if size <= _LARGEST_FILE else path.name + ".data"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        ir.save(model, Path(folder) / path.name, external_data=data)
        for name in (data, path.name):  # the model last: it names the other
            if name is not None:
                os.replace(Path(folder) / name, path.parent / name)
