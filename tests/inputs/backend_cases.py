# SPDX-License-Identifier: Apache-2.0
"""The node tests of the onnx package, and what becomes of each."""

import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase

from qcompile import targets
from qcompile.annotate import annotate
from qcompile.data import Batch, Data
from qcompile.errors import InputError
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.recipe import Recipe
from qcompile.session import open_model, session_options
from qcompile.verify_normalised import check_normalised

QUANTIZED = "compiled"
LEFT_ALONE = "nothing to quantize, the same outputs"
NOT_RUN = "ONNX Runtime cannot run it"
TAKEN = "taken"
# Refused: the start of the label is what the message says.
REFUSALS = {
    "ONNX Runtime runs from 7 on": "opset below 7",
    "Scan of opset 8": "Scan of opset 8",
}


@cache
def node_cases() -> list[TestCase]:
    """About 1,900."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return collect_testcases(None)


def as_array(value: Any) -> Any:
    """What ONNX Runtime takes: arrays, lists of them, None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def with_constants(case: TestCase) -> onnx.ModelProto:
    """The case with every float input but the first as a weight."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    arrays = [as_array(a) for a in case.data_sets[0][0]]
    kept = []
    for i, (value, array) in enumerate(zip(case.model.graph.input, arrays, strict=True)):
        if i and isinstance(array, np.ndarray) and array.dtype == np.float32:
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            kept.append(value)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def normalised(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model]:
    """The loaded and the normalised model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        source = load(path)
        return source, normalise(source)


def opens(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime takes the model as it is."""
    options = session_options(1, optimise=False)
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:  # of ONNX Runtime, which raises many types
        return False
    return True


def entry(case: TestCase) -> str:
    """TAKEN where it is loaded and normalised, else why not."""
    if not opens(case.model):
        return NOT_RUN
    try:
        normalised(case.model)
    except InputError as error:
        return next(label for said, label in REFUSALS.items() if said in str(error))
    return TAKEN


def fate(case: TestCase, compile_it: Callable[[onnx.ModelProto], None]) -> str:
    """One of these; an AssertionError where outputs differ, any other where it is a bug."""
    if (reason := entry(case)) != TAKEN:
        return reason
    source, model = normalised(case.model)
    feeds = [
        {v.name: as_array(a) for v, a in zip(case.model.graph.input, inputs, strict=True)}
        for inputs, _ in case.data_sets
    ]
    try:
        session = open_model(source, session_options(optimise=False))
        for feed in feeds:
            session.run(None, feed)
    except Exception:  # of ONNX Runtime, about the model as it is
        return NOT_RUN
    if not any(n.op_type in RANDOM for n in source.graph.all_nodes()):
        check = check_normalised(source, model, Data(feeds, Batch({})))
        assert check.measured <= check.limit, f"{case.name}: {check}"
    try:
        annotate(model, Recipe(preset="w8a8-dynamic"), targets.get("cpu"), has_data=False)
        return QUANTIZED
    except InputError as error:
        assert "nothing to quantize" in str(error)
    try:
        compile_it(with_constants(case))
        return QUANTIZED
    except InputError:
        return LEFT_ALONE


RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "Dropout"}
