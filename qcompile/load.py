# SPDX-License-Identifier: Apache-2.0
"""load: read an ONNX file, weights memory-mapped and lazy, and refuse what cannot be compiled.

What it refuses, it refuses before any slow work.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes.common import InlinePass

from qcompile.element_types import NARROW
from qcompile.errors import InputError
from qcompile.graph import DOMAIN, values
from qcompile.op_libraries import used_op_libraries
from qcompile.passes.normalise.convert_floats import ConvertFloats
from qcompile.passes.normalise.convert_opset import ConvertOpset
from qcompile.passes.normalise.insert_names import InsertNames
from qcompile.session import check_opens, newest_ir_version, newest_opset
from qcompile.soundness import file_problems, problems, sort_nodes

OLDEST_OPSET = 7  # of older ones ORT guarantees nothing; those below 13 are converted
UNUSED_OPSET = 17  # of a model that has none of its ops
# What ONNX Runtime has without a custom-op library.
DOMAINS = {
    *("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", DOMAIN),
    *("ai.onnx.preview.training", "com.microsoft", "com.microsoft.experimental"),
    *("com.microsoft.nchwc", "com.ms.internal.nhwc", "org.pytorch.aten"),
}


def load(path: str | Path) -> ir.Model:
    """The model of the file. InputError names the file, what is wrong, and the cure."""
    path = Path(path)
    model = read(path)
    _name_standard_domain(model)
    _free_unknown_sizes(model)
    _check_graph(model, path)
    _check_domains(model, path)
    _check_values(model, path)
    _refuse(path, [*sort_nodes(model), *problems(model)])
    _check_external(model, path)
    model = _without_bfloat16(model, path)
    check_opens(model)
    return model


def read(path: Path) -> ir.Model:
    """Any ONNX file, its data mapped; InputError where there is none or its bytes are damaged."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a folder; an .onnx file is needed")
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        proto = onnx.load(path, load_external_data=False)
        _refuse(path, list(file_problems(proto)))
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except Exception:  # protobuf and onnx_ir raise their own types for bytes that are no model
        raise InputError(
            f"{path} is not an ONNX model, or it is truncated ({size} bytes could not be parsed)"
        ) from None
    return model


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        shown = "\n  ".join(problems[:8])
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise InputError(f"{path} is no valid model: export it again\n  {shown}{more}")


def _without_bfloat16(model: ir.Model, path: Path) -> ir.Model:
    """ONNX Runtime has no bfloat16 kernels for the CPU, so the model itself runs in float32."""
    wide = ir.DataType.BFLOAT16
    if not any(v.dtype == wide for v in all_values(model)):
        return model
    for each in (ConvertOpset(), InlinePass(), InsertNames(), ConvertFloats()):
        each(model)
    return model


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Inputs, initializers and node outputs of the model's graphs and functions."""
    for graph in (*model.graphs(), *(f.graph for f in model.functions.values())):
        yield from values(graph)


def _name_standard_domain(model: ir.Model) -> None:
    """The import of "ai.onnx" is that of ""; a model without one takes that of its functions."""
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for holder in holders:
        imports = holder.opset_imports
        if "ai.onnx" in imports:
            imports.setdefault("", imports["ai.onnx"])
            del imports["ai.onnx"]
    found = [f.opset_imports[""] for f in model.functions.values() if "" in f.opset_imports]
    if found or not any(node.domain == "" for node in model.graph.all_nodes()):
        model.graph.opset_imports.setdefault("", max(found, default=UNUSED_OPSET))


def _free_unknown_sizes(model: ir.Model) -> None:
    """Sizes below 0 and those named "?", as Paddle's exporter writes what is not known, are free.

    Each on its own: "?" for height and for width does not make a map square.
    """
    outputs = (v for graph in model.graphs() for v in graph.outputs)
    for value in {*all_values(model), *outputs}:
        if value.shape is None or value.const_value is not None:
            continue
        known = [None if _is_unknown(dim) else dim for dim in value.shape]
        if None in known:
            value.shape = ir.Shape(known)


def _is_unknown(dim: int | ir.SymbolicDim) -> bool:
    return dim < 0 if isinstance(dim, int) else dim.value == "?"


def _check_graph(model: ir.Model, path: Path) -> None:
    if not len(model.graph) or not model.graph.outputs or "" not in model.graph.opset_imports:
        raise InputError(f"{path} is not an ONNX model: it has no nodes, no outputs or no opset")
    opset = model.graph.opset_imports[""]
    if any(n.domain == DOMAIN for n in model.graph.all_nodes()):
        raise InputError(f"{path} is compiled already: give the float model it was made from")
    # ONNX Runtime writes the domains of all libraries that its process ever loaded.
    model.graph.opset_imports.pop(DOMAIN, None)
    if opset > newest_opset():
        raise InputError(
            f"{path} has opset {opset}; ONNX Runtime {ort.__version__} and qcompile run up to "
            f"{newest_opset()}: export it with an older opset"
        )
    if opset < OLDEST_OPSET:
        raise InputError(
            f"{path} has opset {opset}; ONNX Runtime runs from {OLDEST_OPSET} on: "
            "export it with a newer opset"
        )
    if model.ir_version > newest_ir_version():
        raise InputError(
            f"{path} has IR version {model.ir_version}; ONNX Runtime {ort.__version__} and "
            f"qcompile read up to {newest_ir_version()}: export it with an older onnx package"
        )


def _check_values(model: ir.Model, path: Path) -> None:
    """Names, types of the interface, and that something makes what a node reads."""
    broken = [v.name for v in model.graph.inputs if "\n" in (v.name or "")]
    broken += [v.name for n in model.graph for v in n.outputs if "\n" in (v.name or "")]
    if broken:
        raise InputError(f"{path}: the name {broken[0]!r} holds a line break: rename the tensor")
    _check_interface(model, path)
    loose = [
        f'{n.op_type} "{n.name or n.outputs[0].name}" reads "{v.name}"'
        for n in model.graph.all_nodes()
        for v in n.inputs
        if v is not None and not (v.producer() or v.is_graph_input() or v.is_initializer())
    ]
    if loose:
        raise InputError(f"{path}: {', '.join(loose[:8])}, which nothing makes: repair the model")


def _check_interface(model: ir.Model, path: Path) -> None:
    """ONNX Runtime's OrtValue takes what its arrays lack, but no strings, and no lists from us."""
    edges = [v for v in (*model.graph.inputs, *model.graph.outputs) if v.const_value is None]
    narrow = [f'"{v.name}" is {v.dtype}' for v in edges if v.dtype in NARROW]
    plain = (ir.TensorType, type(None))
    others = [
        f'"{v.name}"'
        for v in edges
        if v.dtype == ir.DataType.STRING or not isinstance(v.type, plain)
    ]
    if narrow and others:
        raise InputError(
            f"{path}: the input or output {', '.join(narrow)}, which ONNX Runtime for Python does "
            f"not run beside strings, sequences and optionals ({', '.join(others)}): put a Cast at "
            "the model's edge"
        )


def foreign_nodes(model: ir.Model) -> list[ir.Node]:
    """Those whose op is neither ONNX Runtime's nor a function of the model: a library has them."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    nodes = (n for graph in graphs for n in graph.all_nodes())
    own = model.functions
    return [n for n in nodes if n.domain not in DOMAINS and n.op_identifier() not in own]


def _check_domains(model: ir.Model, path: Path) -> None:
    """Ops that neither ONNX Runtime nor a function of the model has: all of them at once."""
    unknown = [
        f'{n.op_type} of domain {n.domain} (node "{n.name or n.outputs[0].name}")'
        for n in foreign_nodes(model)
    ]
    if unknown and not used_op_libraries():  # which ONNX Runtime then asks
        shown = "\n  ".join(unknown[:8])
        more = f"\n  and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise InputError(
            f"{path} has ops that ONNX Runtime lacks: give their library with --op-library "
            f"(in Python qcompile.use_op_library), or export the model with ONNX ops or with "
            f"functions that say what they do\n  "
            f"{shown}{more}"
        )


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
    if tensor.dtype == ir.DataType.UNDEFINED:
        return "has no element type"
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
