# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sessions of graphs in memory; large weights are mapped from files."""

import functools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.decoded_copy import with_decoded_weights
from qcompile.errors import InputError, RefusedError
from qcompile.external import move_outside
from qcompile.graph import attribute, is_op, remove_dead
from qcompile.memory import LARGE_MODEL_BYTES, weight_bytes
from qcompile.op_libraries import used_op_libraries
from qcompile.own_weights import shares_weights, split_shared_weights
from qcompile.windows import open_windowed

_LIMIT_BYTES = 64 << 20  # above it, serializing costs more time and memory than a file
_LEAN_LIMIT_BYTES = 8 << 20
_INLINE_BYTES = 1024  # shapes and the like must be in the model itself
NEWEST_OPSET, NEWEST_IR_VERSION = 28, 14  # that the passes know; ORT 1.32 opens them
_SURE_OPSET, _SURE_IR_VERSION = 26, 13  # ORT 1.31 opens them
PRECISION = "session.x64quantprecision"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def session_options(threads: int | None = None, *, optimise: bool = True) -> ort.SessionOptions:
    """Options as every stage uses them, with the user's op libraries; errors only in the log."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for library in used_op_libraries():
        options.register_custom_ops_library(str(library))
    if not _has_vnni():
        # ORT's kernels for uint8 × int8 then add pairs of products in 16 bits and saturate: 11 dB
        # instead of 40 for models/digits.onnx, target ort, on a Haswell. With VNNI the entry would
        # double the time of such models, and some could not be loaded (onnxruntime 1.31).
        options.add_session_config_entry(PRECISION, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


_INTEGER_OPS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul")


def exact_options(model: ir.Model) -> ort.SessionOptions:
    """For a model in codes, as ONNX defines it: nothing optimised.

    But for integer operators without VNNI, whose sums are exact only as ORT optimises them.
    """
    has_integers = any(n.op_type.startswith(_INTEGER_OPS) for n in model.graph.all_nodes())
    return session_options(optimise=has_integers and not _has_vnni())


@functools.cache
def newest_opset() -> int:
    """Up to which the installed ONNX Runtime opens models, and qcompile knows the ops."""
    newer = range(NEWEST_OPSET, _SURE_OPSET, -1)
    return next((o for o in newer if _opens(o, _SURE_IR_VERSION)), _SURE_OPSET)


@functools.cache
def newest_ir_version() -> int:
    """As above, of the file format."""
    newer = range(NEWEST_IR_VERSION, _SURE_IR_VERSION, -1)
    return next((v for v in newer if _opens(_SURE_OPSET, v)), _SURE_IR_VERSION)


def _opens(opset: int, ir_version: int) -> bool:
    """Whether ORT takes a model of one node of these versions."""
    x, y = ir.val("x", ir.DataType.FLOAT, [1]), ir.val("y", ir.DataType.FLOAT, [1])
    node = ir.node("Relu", [x], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": opset}, name="probe")
    try:
        open_model(ir.Model(graph, ir_version=ir_version), session_options(1))
    except InputError:
        return False
    return True


@functools.cache
def _has_vnni() -> bool:
    """What Linux says of the processor; where it says nothing, no."""
    path = Path("/proc/cpuinfo")
    return path.is_file() and "vnni" in path.read_text(encoding="utf-8", errors="replace")


def open_model(
    model: ir.Model, options: ort.SessionOptions | None = None, *, lean: bool | None = None
) -> ort.InferenceSession:
    """A CPU session of the model; InputError with ORT's reason when ORT refuses it.

    Weights in ONNX's types that ORT has no kernel for are decoded first (decoded_copy.py).
    lean: slower, with no copy of the weights; None where they are large. Above a limit ORT maps
    them: from the user's file where all of them lie in one folder, else from a temporary file.
    """
    options = options or session_options()
    model = _decoded(model)
    if not _has_vnni():
        model = _with_own_weights(model)
    try:
        return _open(model, options, lean=lean)
    except InputError as error:
        if _has_vnni() or "NOT_IMPLEMENTED" not in str(error):
            raise
        # ORT 1.32 does not open some models of int8 operators with the entry.
        options.add_session_config_entry(PRECISION, "0")
        return _open(model, options, lean=lean)


def _decoded(model: ir.Model) -> ir.Model:
    """With floats in place of codes that ORT lacks; InputError where their node is no valid one."""
    try:
        return with_decoded_weights(model)
    except Exception as error:  # of sizes and attributes that nothing has checked
        raise InputError(f"a DequantizeLinear of constants is not valid: {error}") from None


def open_own(
    model: ir.Model,
    what: str,
    options: ort.SessionOptions | None = None,
    *,
    lean: bool | None = None,
) -> ort.InferenceSession:
    """A session of a graph that qcompile made; RefusedError names `what` ORT refuses."""
    try:
        return open_model(model, options, lean=lean)
    except InputError as error:
        raise RefusedError(what, error) from None


def _open(
    model: ir.Model, options: ort.SessionOptions, *, lean: bool | None
) -> ort.InferenceSession:
    size = weight_bytes(model)
    lean = size > LARGE_MODEL_BYTES if lean is None else lean
    try:
        if size <= (_LEAN_LIMIT_BYTES if lean else _LIMIT_BYTES):
            proto = ir.to_proto(_with_weights_inside(model))
            return open_windowed(model, proto.SerializeToString(), options)
        if not lean:
            return _open_mapped(model.clone(), options)
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False  # it would keep the largest buffers for ever
        return _open_mapped(_without_transposed_weights(model), options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # ORT raises many types; all carry one readable message
        raise InputError(f"ONNX Runtime refuses the model: {error}") from None


def check_opens(model: ir.Model) -> None:
    """InputError with ORT's reason where it refuses the model: types, attributes, sizes, kernels.

    Large weights are inputs at first, so that none is read or copied. A model that ORT refuses
    without them is opened as it is.
    """
    model = _decoded(model)
    graph = (shell := model.clone()).graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _INLINE_BYTES:
            del graph.initializers[name]
            value.dtype, value.shape = tensor.dtype, ir.Shape(tensor.shape.numpy())
            value.const_value = None
            if not value.is_graph_input():
                graph.inputs.append(value)
    try:
        open_model(shell, session_options(1, optimise=False))
    except InputError:
        open_model(model, session_options(1, optimise=False))


def _open_mapped(model: ir.Model, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session that reads its weights from mapped files; the model is changed."""
    tensors = [v.const_value for v in _initializers(model)]
    large = [t for t in tensors if t is not None and t.nbytes > _INLINE_BYTES]
    folders = {Path(t.base_dir) for t in large if isinstance(t, ir.ExternalTensor)}
    if len(folders) == 1 and all(isinstance(t, ir.ExternalTensor) for t in large):
        options.add_session_config_entry(WEIGHTS_FOLDER, str(folders.pop().absolute()))
        for value, tensor in ((v, v.const_value) for v in _initializers(model)):
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _INLINE_BYTES:
                value.const_value = ir.tensor(tensor.numpy(), name=value.name)
        return open_windowed(model, ir.to_proto(model).SerializeToString(), options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        move_outside(_initializers(model), path.with_name("weights"), _INLINE_BYTES)
        ir.save(model, path)
        return open_windowed(model, path, options)


def _without_transposed_weights(model: ir.Model) -> ir.Model:
    """A copy with x · wᵀ as one op of ORT's, which would otherwise hold a transposed w."""
    copy = model.clone()
    for node in [n for n in copy.graph if is_op(n, "MatMul")]:
        turned = node.inputs[1]
        turn = turned.producer() if turned is not None else None
        if turn is None or not is_op(turn, "Transpose") or attribute(turn, "perm") != (1, 0):
            continue
        node.domain, node.op_type = "com.microsoft", "FusedMatMul"
        node.attributes["transB"] = ir.AttrInt64("transB", 1)
        node.replace_input_with(1, turn.inputs[0])
        remove_dead(copy.graph, [turn])
        copy.opset_imports.setdefault("com.microsoft", 1)
    return copy


def run_float(
    session: ort.InferenceSession, names: list[str] | None, feed: dict[str, NDArray]
) -> list[NDArray]:
    """Run the user's model; InputError where it fails on the data."""
    try:
        return list(session.run(names, feed))
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # as above
        raise InputError(
            f"ONNX Runtime fails on the data: {error}\ngive data that it takes"
        ) from None


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    """Those of subgraphs too."""
    for graph in model.graphs():
        yield from graph.initializers.values()


def _with_weights_inside(model: ir.Model) -> ir.Model:
    """The model with external tensors read in, sharing the rest."""
    if not any(isinstance(v.const_value, ir.ExternalTensor) for v in _initializers(model)):
        return model
    copy = model.clone()
    for value in _initializers(copy):
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return copy


def _with_own_weights(model: ir.Model) -> ir.Model:
    """The model, or a copy in which no two ops read one int8 weight."""
    if not shares_weights(model.graph):
        return model
    copy = model.clone()
    split_shared_weights(copy.graph)
    return copy


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy whose outputs are just the named values; initializers and inputs may be among them."""
    copy = model.clone()
    found = {v.name: v for node in copy.graph for v in node.outputs}
    found |= {v.name: v for v in (*copy.graph.inputs, *copy.graph.initializers.values())}
    copy.graph.outputs[:] = [found[name] for name in names]
    return copy
