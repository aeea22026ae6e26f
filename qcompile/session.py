# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sessions of graphs in memory; above 64 MiB of weights through a temporary folder."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.errors import InputError

_LIMIT_BYTES = 64 << 20  # above it, serializing costs more time and memory than a file


def session_options(threads: int | None = None, *, optimise: bool = True) -> ort.SessionOptions:
    """Options as every stage uses them; errors only in the log."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_model(model: ir.Model, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """A CPU session of the model; InputError with ORT's reason when ORT refuses it."""
    options = options or session_options()
    size = sum(v.const_value.nbytes for v in _initializers(model) if v.const_value is not None)
    try:
        if size <= _LIMIT_BYTES:
            proto = ir.to_proto(_with_weights_inside(model))
            return ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.onnx.data")
            return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (OSError, MemoryError):
        raise
    except Exception as error:  # ORT raises many types; all carry one readable message
        raise InputError(f"ONNX Runtime refuses the model: {error}") from None


def run_float(
    session: ort.InferenceSession, names: list[str] | None, feed: dict[str, NDArray]
) -> list[NDArray]:
    """Run the user's model; InputError where it fails on the data."""
    try:
        return list(session.run(names, feed))
    except (OSError, MemoryError):
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


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy whose outputs are just the named values; initializers and inputs may be among them."""
    copy = model.clone()
    found = {v.name: v for node in copy.graph for v in node.outputs}
    found |= {v.name: v for v in (*copy.graph.inputs, *copy.graph.initializers.values())}
    copy.graph.outputs[:] = [found[name] for name in names]
    return copy
