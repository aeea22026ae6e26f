# SPDX-License-Identifier: Apache-2.0
"""A weight of more than 2 GB in a sparse file is loaded and normalised without being read."""

from pathlib import Path

import onnx_ir as ir
import pytest

from qcompile.load import load
from qcompile.normalise import normalise

K, N = 32768, 17000
NUM_BYTES = K * N * 4


@pytest.mark.parametrize("opset", [9, 17])
def test_a_large_weight_is_not_read(
    opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
        f (float[n,{K}] x, float[{K},{N}] w) => (float[n,{N}] y)
        {{ a = MatMul (x, w)  y = Relu (a) }}"""
    model = ir.from_onnx_text(text)
    weight = model.graph.inputs.pop()
    weight.const_value = ir.ExternalTensor(
        "w.data", 0, NUM_BYTES, ir.DataType.FLOAT, shape=ir.Shape([K, N]), name="w"
    )
    model.graph.register_initializer(weight)
    ir.save(model, tmp_path / "m.onnx")
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(NUM_BYTES)

    def fail(*_: object) -> None:
        raise AssertionError("the weight was read")

    for name in ("numpy", "tobytes", "_load"):
        monkeypatch.setattr(ir.ExternalTensor, name, fail)
    normalised = normalise(load(tmp_path / "m.onnx"))
    (found,) = [v for v in normalised.graph.initializers.values() if v.shape == ir.Shape([N, K])]
    assert NUM_BYTES > 2**31
    with pytest.raises(AssertionError, match="was read"):
        found.const_value.numpy()
