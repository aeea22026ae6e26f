# SPDX-License-Identifier: Apache-2.0
"""Compiling a model of the zoo, and what the tests measure on the result."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import qcompile
from models.zoo import ZOO
from models.zoo.samples import samples
from qcompile import runtime_ops
from qcompile.graph import constant
from qcompile.session import open_model, session_options

CNN = (("w8a8", "cpu"), ("w4a8", "cpu"), ("w8a8", "ort"))
OTHER = (("w8a8", "cpu"), ("w8a8", "ort"), ("w4a16", "cpu"), ("w4a16", "ort"))
CASES = [
    (name, *pair) for name, entry in ZOO.items() for pair in (CNN if entry.kind == "cnn" else OTHER)
]
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
RECURRENT = ("LSTM", "GRU")  # W and R
CALIBRATION, TEST = 1, 2  # seeds


@dataclass(frozen=True)
class Run:
    """A compiled model: the source, the QDQ graph that it must agree with, and the artifact."""

    source: ir.Model
    quantized: ir.Model
    artifact: qcompile.Artifact


def compiled(name: str, preset: str, target: str, folder: Path, *, tiny: bool = True) -> Run:
    """The model compiled with seeded random calibration data."""
    model = ZOO[name].build(tiny=tiny)
    path = folder / f"{name}.onnx"
    ir.save(model, path)
    stages: dict[str, ir.Model] = {}
    artifact = qcompile.compile(
        path,
        target,
        recipe=qcompile.Recipe(preset=preset),
        calibration_data=samples(model, 4 if tiny else 2, CALIBRATION),
        inspect=lambda stage, _, after: stages.update({stage: after}),
    )
    return Run(model, stages["transform"], artifact)


def outputs(session: ort.InferenceSession, feed: dict[str, NDArray]) -> list[NDArray]:
    """All outputs in float64."""
    return [np.asarray(value, np.float64) for value in session.run(None, feed)]


def float_outputs(run: Run, feed: dict[str, NDArray]) -> list[NDArray]:
    """What the float model gives."""
    return outputs(open_model(run.source, session_options(1)), feed)


def reference_outputs(run: Run, feed: dict[str, NDArray]) -> list[NDArray]:
    """What the QDQ graph gives in ONNX Runtime with its optimisations off."""
    options = session_options(optimise=False)
    runtime_ops.register(options)
    return outputs(open_model(run.quantized, options), feed)


def sqnr(expected: list[NDArray], found: list[NDArray]) -> float:
    """10 · log10(signal / noise) over all outputs, in dB."""
    signal = sum(float((e * e).sum()) for e in expected)
    noise = sum(float(((e - f) ** 2).sum()) for e, f in zip(expected, found, strict=True))
    return 10 * math.log10(signal / noise)


def coverage(run: Run) -> float:
    """Elements of products' weights that run from codes ÷ those of the source, counted here."""
    weights = {
        value.name: math.prod(array.shape)
        for node in run.source.graph
        if node.op_type in (*PRODUCTS, *RECURRENT)
        for value in (node.inputs[1:3] if node.op_type in RECURRENT else node.inputs[:2])
        for array in [behind_transpose(value)]
        if array is not None and array.ndim > 1
    }
    rows = [r for r in run.artifact.content["nodes"] if r["weight"] is not None]
    packed = {r["weight_tensor"]: r["elements"] for r in rows if r["op"] in (*PRODUCTS, *RECURRENT)}
    return sum(packed.values()) / sum(weights.values())


def behind_transpose(value: ir.Value | None) -> NDArray | None:
    """The constant, also where the product reads its Transpose, as tied heads do."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Transpose":
        value = node.inputs[0]
    return constant(value)
