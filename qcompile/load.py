# SPDX-License-Identifier: Apache-2.0
"""load: read an ONNX file, weights memory-mapped and lazy, and refuse what cannot be compiled before any slow work."""

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from qcompile.errors import InputError

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
            f"{path} has opset {opset}; ONNX Runtime runs up to {NEWEST_OPSET}: export it with an older opset"
        )


def _check_external(model: ir.Model, path: Path) -> None:
    """External data stays inside the model's folder, exists, and holds what the model says; all problems at once."""
    folder = path.resolve().parent
    problems = []
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            where = (folder / os.fspath(tensor.location)).resolve()
            offset, length = tensor.offset or 0, tensor.length
            if not where.is_relative_to(folder):
                problems.append(
                    f'tensor "{value.name}" is in {tensor.location}, outside the model\'s folder'
                )
            elif not where.is_file():
                problems.append(
                    f'tensor "{value.name}" is in {tensor.location}, which does not exist'
                )
            elif offset + (length or tensor.nbytes) > where.stat().st_size:
                problems.append(
                    f'tensor "{value.name}" needs bytes {offset} to {offset + (length or tensor.nbytes)} of '
                    f"{tensor.location}, which has {where.stat().st_size}"
                )
            elif length is not None and length < tensor.nbytes:
                problems.append(
                    f'tensor "{value.name}" has {length} bytes of external data; its shape needs {tensor.nbytes}'
                )
    if problems:
        shown = "\n  ".join(problems[:8])
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise InputError(f"{path}: external data\n  {shown}{more}")


def convert_opset(model: ir.Model, path: Path) -> ir.Model:
    """Opsets below 13 become 17. Resize and Upsample are refused there: onnx's converter gets their linear modes wrong."""
    opset = model.graph.opset_imports[""]
    if opset >= OLDEST_OPSET:
        return model
    wrong = sorted(
        {n.op_type for n in model.graph.all_nodes() if n.op_type in ("Resize", "Upsample")}
    )
    if wrong:
        raise InputError(
            f"{path} has opset {opset} and {', '.join(wrong)}, which cannot be converted safely: export it with opset 13 or newer"
        )
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), 17)
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise InputError(f"{path}: opset {opset} could not be converted to 17: {error}") from None
    return ir.from_proto(proto)
