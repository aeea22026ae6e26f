# SPDX-License-Identifier: Apache-2.0
"""load: read an ONNX file, weights memory-mapped and lazy, and refuse what cannot be compiled.

What it refuses, it refuses before any slow work.
"""

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from qcompile.errors import InputError
from qcompile.graph import DOMAIN

NEWEST_OPSET = 26  # ORT 1.31 refuses newer ones
OLDEST_OPSET = 13  # per-axis QuantizeLinear; older models are converted


def load(path: str | Path) -> ir.Model:
    """The model of the file. InputError names the file, what is wrong, and the cure."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a folder; an .onnx file is needed")
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        model = ir.load(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except Exception:  # protobuf and onnx_ir raise their own types for bytes that are no model
        raise InputError(
            f"{path} is not an ONNX model, or it is truncated ({size} bytes could not be parsed)"
        ) from None
    _check_graph(model, path)
    _check_external(model, path)
    return convert_opset(model, path)


def _check_graph(model: ir.Model, path: Path) -> None:
    if not len(model.graph) or not model.graph.outputs or "" not in model.graph.opset_imports:
        raise InputError(f"{path} is not an ONNX model: it has no nodes, no outputs or no opset")
    opset = model.graph.opset_imports[""]
    if opset > NEWEST_OPSET:
        raise InputError(
            f"{path} has opset {opset}; ONNX Runtime runs up to {NEWEST_OPSET}: "
            "export it with an older opset"
        )
    broken = [v.name for v in model.graph.inputs if "\n" in (v.name or "")]
    broken += [v.name for n in model.graph for v in n.outputs if "\n" in (v.name or "")]
    if broken:
        raise InputError(f"{path}: the name {broken[0]!r} holds a line break: rename the tensor")
    if DOMAIN in model.graph.opset_imports:
        raise InputError(f"{path} is compiled already: give the float model it was made from")


def external_tensors(model: ir.Model) -> list[tuple[ir.Value, ir.ExternalTensor]]:
    """Every initializer whose data is in another file, those of subgraphs too."""
    values = (v for graph in model.graphs() for v in graph.initializers.values())
    return [(v, v.const_value) for v in values if isinstance(v.const_value, ir.ExternalTensor)]


def _check_external(model: ir.Model, path: Path) -> None:
    """External data stays in the model's folder and holds what the model says; all problems."""
    problems = []
    for value, tensor in external_tensors(model):
        problem = _external_problem(tensor, path)
        if problem is not None:
            problems.append(f'tensor "{value.name}" {problem}')
        elif Path(tensor.path).is_symlink():
            value.const_value = _followed(tensor)
    if problems:
        shown = "\n  ".join(problems[:8])
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise InputError(f"{path}: external data\n  {shown}{more}")


def _followed(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """The tensor in the file that a link leads to; onnx_ir refuses links itself."""
    where = Path(tensor.path).resolve()
    return ir.ExternalTensor(
        where.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        base_dir=where.parent,
    )


def _external_problem(tensor: ir.ExternalTensor, path: Path) -> str | None:
    location = os.fspath(tensor.location)
    where = path.absolute().parent / location
    # A download cache has links in the model's folder to files beside the real model.
    folders = (path.absolute().parent.resolve(), path.resolve().parent)
    if ".." in Path(location).parts or not any(where.resolve().is_relative_to(f) for f in folders):
        return f"is in {location}, outside the model's folder"
    if not where.is_file():
        return f"is in {location}, which does not exist"
    offset, length, size = tensor.offset or 0, tensor.length, where.stat().st_size
    end = offset + (tensor.nbytes if length is None else length)
    if end > size:
        return f"needs bytes {offset} to {end} of {location}, which has {size}"
    if length is not None and length != tensor.nbytes:
        return f"has {length} bytes of external data; its shape needs {tensor.nbytes}"
    return None


def convert_opset(model: ir.Model, path: Path) -> ir.Model:
    """Opsets below 13 become 17.

    Resize and Upsample are refused there: onnx's converter gets their linear modes wrong.
    """
    opset = model.graph.opset_imports[""]
    if opset >= OLDEST_OPSET:
        return model
    wrong = sorted(
        {n.op_type for n in model.graph.all_nodes() if n.op_type in ("Resize", "Upsample")}
    )
    if wrong:
        raise InputError(
            f"{path} has opset {opset} and {', '.join(wrong)}, which cannot be converted safely: "
            "export it with opset 13 or newer"
        )
    for value, tensor in external_tensors(model):  # the converter knows no folder
        value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), 17)
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise InputError(f"{path}: opset {opset} could not be converted to 17: {error}") from None
    return ir.from_proto(proto)
