# SPDX-License-Identifier: Apache-2.0
"""emit: the packed model as a folder on disk, whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common

import qcompile.runtime_ops as runtime_ops
from qcompile.artifact import MANIFEST, MODEL, WEIGHTS, Artifact, sha256
from qcompile.bodies import nodes_of
from qcompile.errors import InputError
from qcompile.external import Watch, move_outside
from qcompile.graph import DOMAIN, DOMAIN_VERSION, attribute, is_op, static_shape
from qcompile.integer_only import raw_outputs
from qcompile.passes.lower.insert_columns_into_matmul_integer import is_wrong_with_amx
from qcompile.passes.lower.insert_outputs_into_static_product import amx_outputs
from qcompile.passes.lower.lower_lstm_into_dynamic_quantize_lstm import PLACES, QUANTIZED_LSTM
from qcompile.plan import NodePlan, Plan
from qcompile.provenance import detach
from qcompile.recipe import Recipe
from qcompile.targets.target import Target
from qcompile.version import VERSION

INLINE_BYTES = 1024  # shapes, axes and other small tensors stay in the model file
_BACK = "DequantizeLinear"
# opset → (IR version, oldest ONNX Runtime); the op library needs ORT 1.17 (API 17).
NEEDS = {
    **{20: (9, "1.17"), 21: (10, "1.18"), 23: (11, "1.23"), 24: (12, "1.24")},
    **{26: (13, "1.31"), 28: (14, "1.32")},
}


@contextmanager
def staging(out: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` on success and vanishes otherwise."""
    out = out.absolute()
    check_output(out, force=force)
    made = [p for p in out.parents if not p.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"{out}: cannot write there: {error.strerror}") from None
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        _publish(folder, out, force=force)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(f"{out}: the disk is full; nothing was written") from None
        raise InputError(f"{out}: {error.strerror or error}; nothing was written") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not out.exists():
            _remove_empty(made)


def check_output(out: Path, *, force: bool) -> None:
    """Refuse to replace what exists without `force`, and what is no artifact with it."""
    if not os.path.lexists(out):
        return
    if not force:
        raise InputError(f"{out} exists: give --force to replace it, or another -o")
    is_free = out.is_dir() and not any(out.iterdir())
    if not is_free and not (out / MANIFEST).is_file():
        raise InputError(
            f"{out} exists and is no qcompile artifact, so --force does not replace it: "
            "remove it, or give another -o"
        )


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that were made for the output, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _publish(folder: Path, out: Path, *, force: bool) -> None:
    check_output(out, force=force)  # someone may have written it in the meantime
    if not out.exists():
        folder.rename(out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old."))
    out.rename(old / out.name)
    try:
        folder.rename(out)
    except BaseException:
        (old / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def emit(
    packed: ir.Model,
    plan: Plan,
    recipe: Recipe,
    target: Target,
    source: dict[str, Any],
    folder: Path,
    watch: Watch | None = None,
) -> Artifact:
    """Write model, weights, op library and manifest; `source` describes the user's file."""
    model = packed.clone()
    _settle_versions(model)
    write_weights(model, folder, watch)
    provenance = detach(model)
    write_model(model, folder / MODEL)
    library = None
    if target.needs_library:
        path = runtime_ops.library_path()
        shutil.copyfile(path, folder / path.name)
        library = {"file": path.name, "abi": runtime_ops.ABI}
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(folder.iterdir())
    }
    opset = model.graph.opset_imports[""]
    content = {
        "qcompile": VERSION,
        "source": source,
        "target": target.name,
        "preset": plan.preset,
        "recipe": asdict(recipe),
        "notes": list(plan.notes),
        "activation_ranges": plan.ranges_from,
        "onnx": {
            "opset": opset,
            "ir_version": model.ir_version,
            "oldest_onnxruntime": oldest_runtime(packed),
        },
        "library": library,
        "integer_outputs": raw_outputs(packed) if plan.is_integer_only else None,
        "files": files,
        "coverage": plan.coverage(),
        "nodes": node_rows(packed, plan, target),
        "float_nodes": dict(plan.reasons),
        "rotations": [row.as_dict() for row in plan.rotations],
        "softmax_formats": {node: found.text for node, found in plan.softmax.items()},
        "provenance": provenance,
    }
    artifact = Artifact(folder, content, {})
    artifact.write_manifest()
    return artifact


def needs(opset: int) -> tuple[int, str]:
    """IR version and oldest ONNX Runtime for an opset."""
    return next(NEEDS[o] for o in sorted(NEEDS) if opset <= o)


def oldest_runtime(model: ir.Model) -> str:
    """The oldest ONNX Runtime that has the opset and every kernel of the model."""
    needed = [needs(model.graph.opset_imports[""])[1]]
    if any(n.op_type == "MatMulNBits" and attribute(n, "bits", 4) == 8 for n in nodes_of(model)):
        needed.append("1.23")  # 1.22 has a kernel, which refuses most of them when it runs
    moved = [n.inputs[0] for n in nodes_of(model) if is_op(n, "DepthToSpace")]
    if any(v is not None and v.dtype == ir.DataType.UINT8 for v in moved):
        needed.append("1.21")
    if any(is_wrong_with_amx(_amx_columns(n)) for n in model.graph):
        needed.append("1.25")
    return max(needed, key=_number)


def _amx_columns(node: ir.Node) -> int:
    """Outputs of a static product or an LSTM, as ONNX Runtime's AMX kernel has them; else 0."""
    if node.op_type == QUANTIZED_LSTM:
        return 4 * int(attribute(node, "hidden_size"))
    weight = node.inputs[1] if is_op(node, "Conv", "MatMul", "Gemm") else None
    dims = static_shape(weight) if weight is not None else None
    if dims is None or weight is None or not is_op(node.inputs[0].producer(), _BACK):  # type: ignore[union-attr]
        return 0
    if not is_op(weight.producer(), _BACK, "Transpose"):
        return 0
    if is_op(node, "MatMul") or (is_op(node, "Gemm") and not attribute(node, "transB", 0)):
        return dims[-1]
    return amx_outputs(node, dims)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _settle_versions(model: ir.Model) -> None:
    """The lowest IR version that the opset needs, and just the domains in use."""
    common.RemoveUnusedOpsetsPass()(model)
    if any(n.domain == DOMAIN for n in nodes_of(model)):
        model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    model.ir_version = needs(model.graph.opset_imports[""])[0]
    model.producer_name, model.producer_version = "qcompile", VERSION


def write_weights(model: ir.Model, folder: Path, watch: Watch | None = None) -> None:
    """Stream the large initializers into model.onnx.data, one in memory at a time."""
    path = folder / WEIGHTS
    values = [v for graph in model.graphs() for v in graph.initializers.values()]
    move_outside(values, path, INLINE_BYTES, watch)
    if not path.stat().st_size:
        path.unlink()


def write_model(model: ir.Model, path: Path) -> None:
    """Write the graph without value_info of initializers: a tensor says its type and shape."""
    proto = ir.to_proto(model)
    described = [v for v in proto.graph.value_info if v.name not in model.graph.initializers]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(described)
    path.write_bytes(proto.SerializeToString())


def node_rows(packed: ir.Model, plan: Plan, target: Target) -> list[dict[str, Any]]:
    """What happened to every weighted node: formats, kernel, bytes, or the reason for float."""
    nodes = {n.name: n for n in nodes_of(packed)}
    return [_row(p, nodes.get(p.node), target) for p in plan.nodes.values()]


def _row(plan: NodePlan, node: ir.Node | None, target: Target) -> dict[str, Any]:
    row: dict[str, Any] = {"node": plan.node, "op": plan.op_type, "weight_tensor": plan.weight_name}
    row |= {"elements": plan.num_elements, "decided_by": plan.rule}
    if not plan.is_quantized:
        return row | {"weight": None, "activation": None, "kernel": None, "reason": plan.reason}
    held, kernel, layout = 0, "", None
    if node is not None:
        kernel = node.op_type
        if "activation" in node.attributes:
            kernel += f" {node.attributes['activation'].value}"
        if "layout" in node.attributes:
            layout = node.attributes["layout"].value
        if node.op_type == QUANTIZED_LSTM:
            held = sum(nbytes(node.inputs[i]) for places in PLACES for i in places)
        elif node.domain == DOMAIN and node.inputs[1] is not None:
            held = nbytes(node.inputs[1])
    return row | {
        "weight": str(plan.weight),
        "activation": None if plan.activation is None else str(plan.activation),
        "kernel": kernel,
        "layout": layout,
        "packed_bytes": held,
        "reason": None,
    }


def nbytes(value: ir.Value | None) -> int:
    """Bytes of a constant, 0 of what is none."""
    tensor = value.const_value if value is not None else None
    return 0 if tensor is None else tensor.nbytes
