# SPDX-License-Identifier: Apache-2.0
"""ResNet-20 on CIFAR-10 images: tvm-cpu and t4 give the integers of target cpu at 8 and 4 bits."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qcompile
from qcompile.graph import is_op
from qcompile.verify_nodes import probe

DATA = os.environ.get("QC_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DATA is None, reason="QC_DATA is not set"),
]
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
LEAST = {"w8a8": 0.78, "w4a4": 0.72}  # of 1,000 images; the float model has 0.81 of 10,000


def images(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(str(DATA)) / "cifar10_jpeg" / f"{split}.npz") as pack:
        jpeg, offsets, labels = pack["jpeg"].tobytes(), pack["offsets"], pack["labels"]
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    files = (jpeg[offsets[i] : offsets[i + 1]] for i in chosen)
    x = np.stack([np.asarray(Image.open(io.BytesIO(file)), np.float32) for file in files])
    x = (x / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32), labels[chosen]


@pytest.mark.parametrize("preset", LEAST)
def test_integers_are_those_of_target_cpu(preset: str, tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    model = Path(str(DATA)) / "cifar_resnet/resnet20_cifar10.onnx"
    method = "mse" if preset == "w4a4" else "minmax"
    recipe = qcompile.Recipe(preset=preset, calibration_method=method, integer_only=True)
    data = {"input": images("train", 128)[0]}
    targets = ["cpu", "tvm-cpu", *(["t4"] if shutil.which("nvcc") else [])]
    made = {
        name: qcompile.compile(model, name, tmp_path / name, recipe=recipe, calibration_data=data)
        for name in targets
    }
    x, labels = images("test", 1000)
    packed = made["cpu"].model()
    last = packed.graph.outputs[0].producer()
    assert last is not None and is_op(last, "DequantizeLinear") and last.inputs[0] is not None
    cpu = probe(made["cpu"], packed, [last.inputs[0].name or ""])
    expected = cpu.run(None, {"input": x})[0]
    session = qcompile.load(made["tvm-cpu"].folder, trust_library=True)
    np.testing.assert_array_equal(session.run(None, {"input": x}, raw=True)[0], expected)
    assert (expected.argmax(1) == labels).mean() > LEAST[preset]
    if "t4" not in made:
        return
    emulated = qcompile.load(made["t4"].folder, trust_library=True, emulate=True)
    found = emulated.run(None, {"input": x[:2]}, raw=True)[0]
    np.testing.assert_array_equal(found, expected[:2])
    kinds = {row["instruction"] for row in made["t4"].content["network"]["kernels"]}
    products = {"mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32", "dp4a.u32.s32", ""}
    narrow = {"mma.sync.aligned.m8n8k32.row.col.s32.u4.s4.s32"}
    assert kinds == products | (narrow if preset == "w4a4" else set())
    assert all(r["spill_bytes"] == 0 for r in made["t4"].content["network"]["kernels"])
