# SPDX-License-Identifier: Apache-2.0
"""Every rounder takes every format: better than the nearest codes in every layer of vit_digits.

Layers and their inputs are real: the products of the shipped model on digits.
"""

from functools import lru_cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from models.digits import data
from models.vit_digits import path
from qcompile.formats import get
from qcompile.formats.block import stored_scales
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.adaround import adaround
from qcompile.passes.transform.descend import descend
from qcompile.passes.transform.gptq import gptq, output_error
from qcompile.passes.transform.layer_rows import LayerRows, Setting, products
from qcompile.settle_formats import settled_spec
from qcompile.spec import QuantSpec

FORMATS = (
    *("e2m1", "e3m0", "nf4", "lloyd3", "kmeans3", "posit4_1", "ternary", "balanced2", "e2m2"),
    *("bitmod3", "bitmod4"),
)


@lru_cache
def layers() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, weight [N, K], inputs [rows, K]) of every product."""
    model = onnx.load(path())
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    found = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    for node in found:
        model.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
    session = ort.InferenceSession(model.SerializeToString())
    names = [n.input[0] for n in found]
    values = session.run(names, {"image": data("calibration")[0][:64]})
    return [
        (n.name, weights[n.input[1]].T.copy(), v.reshape(-1, v.shape[-1]))
        for n, v in zip(found, values, strict=True)
    ]


def spec_of(name: str, weight: np.ndarray) -> QuantSpec:
    """Blocks of 32 with f16 scales, of three levels 160 or one a row."""
    size = 32 if get(name).levels is None else 0
    where = f"block(axis=1,size={size})" if size else "axis(axis=0)"
    stored = stored_scales(get(name), "f16") if size else "f32"
    return settled_spec(weight, QuantSpec.parse(f"{name}/{where}/sym/{stored}"))


@pytest.mark.parametrize("name", FORMATS)
def test_gptq_and_descent_beat_the_nearest_codes(name: str) -> None:
    assert len(layers()) == 8
    for layer, weight, x in layers():
        spec = spec_of(name, weight)
        start = code_weight(weight, spec, "mse")
        hessian = (x.T @ x / len(x))[None].astype(np.float32)
        errors = [
            float(output_error(weight, found, x[:, None]))
            for found in (
                start,
                gptq(weight, start, hessian, spec),
                descend(weight, start, hessian, spec),
            )
        ]
        assert errors[1] < errors[0] and errors[2] < errors[0], (layer, errors)


SOON = ("bitmod4",)  # the others take minutes together


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in SOON else [pytest.mark.slow]) for n in FORMATS]
)
def test_adaround_beats_the_nearest_codes(name: str) -> None:
    for layer, weight, x in layers():
        spec = spec_of(name, weight)
        start = code_weight(weight, spec, "mse")
        bias = np.zeros(len(weight), np.float32)
        rows = LayerRows(x[None], products(x[None], weight, bias))
        found = adaround(weight, start, bias, rows, Setting(spec, steps=300))
        assert rows.error(found.weight, bias) < rows.error(start, bias), layer
