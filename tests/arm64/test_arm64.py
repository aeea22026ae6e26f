# SPDX-License-Identifier: Apache-2.0
"""The op library on arm64, under qemu: every kernel against numerics, whole networks against x86.

`make test-arm64` makes the machine; without it these tests skip.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qcompile
from models import digits, vit_digits
from qcompile import Recipe, runtime_ops
from tests.arm64.machine import PROCESSORS, Machine, is_ready

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_ready(), reason="no emulated arm64 machine: make test-arm64"),
]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_kernels(processor):
    """The kernels' own tests, with the node run on arm64."""
    files = ["tests/runtime_ops/test_products.py", "tests/runtime_ops/test_elementwise.py"]
    plugin = ["-p", "tests.arm64.redirect", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *plugin, *files],
        env={**os.environ, "PYTHONPATH": str(ROOT), "QC_ARM64_PROCESSOR": processor},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("processor,isa", PROCESSORS.items())
def test_instruction_set(processor, isa):
    """A processor with sdot runs the sdot kernels, and one without does not offer them."""
    above = {"scalar": "dotprod", "dotprod": "i8mm"}.get(isa)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float x) => (float y) { y = Neg (x) }'
    )
    feed = {"x": np.float32(3)}
    for asked in ("scalar", isa):
        machine = Machine(processor, asked)
        assert machine.run(model, feed) == [np.float32(-3)]
        machine.close()
    if above is not None:
        machine = Machine(processor, above)
        with pytest.raises(RuntimeError, match=f"this processor and this build run .*{isa}[.]"):
            machine.run(model, feed)
        machine.close()


def show_codes(folder: Path) -> None:
    """The artifact's model gives every uint8 value as an output too."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    shown = {v.name for v in model.graph.output}
    for node in model.graph.node:
        if node.domain == "com.qcompile" or node.op_type == "QuantizeLinear":
            made = [name for name in node.output if name not in shown]
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    onnx.save(model, folder / "model.onnx")


def on_x86(folder: Path, feed: dict) -> list[np.ndarray]:
    options = ort.SessionOptions()
    runtime_ops.register(options)
    session = ort.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


def networks() -> dict[str, tuple[Path, np.ndarray, np.ndarray]]:
    """Model, calibration inputs, the inputs that are compared; ResNet-20 where QC_DATA has it."""
    x, _ = digits.data("calibration")
    found = {"digits": (digits.path(), x[:64], x[64:72])}
    found["vit_digits"] = vit_digits.path(), x[:32], x[64:72]  # with float ops between its codes
    resnet = Path(os.environ.get("QC_DATA", "nowhere")) / "cifar_resnet/resnet20_cifar10.onnx"
    if resnet.is_file():
        images = np.random.default_rng(0).standard_normal((18, 3, 32, 32)).astype(np.float32)
        found["resnet20"] = resnet, images[:16], images[16:]
    return found


@pytest.fixture(scope="module", params=[(n, p) for n in networks() for p in ("w8a8", "w4a8")])
def compiled(request, tmp_path_factory):
    """(folder that shows all codes, feed, what x86 gives for them)."""
    name, preset = request.param
    path, calibration, x = networks()[name]
    folder = tmp_path_factory.mktemp(name) / "out"
    key = ort.InferenceSession(str(path)).get_inputs()[0].name
    data = [{key: sample[None]} for sample in calibration]
    qcompile.compile(path, "cpu", folder, recipe=Recipe(preset=preset), calibration_data=data)
    show_codes(folder)
    return folder, {key: x}, on_x86(folder, {key: x})


@pytest.mark.parametrize("processor", PROCESSORS)
def test_network(compiled, processor):
    """All codes of a compiled network, and so its outputs, equal those of x86."""
    folder, feed, expected = compiled
    machine = Machine(processor)
    found = machine.run_folder(folder, feed)
    machine.close()
    assert len(found) == len(expected) > 2
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
