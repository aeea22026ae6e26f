# SPDX-License-Identifier: Apache-2.0
"""The library itself: instruction sets, shapes, symbols, memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from qcompile import runtime_ops
from qcompile.formats import get
from tests.runtime_ops.single_op import build, pack, random_weight, session, weight_attributes

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


def in_process(arguments: list[str], isa: str | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("QCOMPILE_ISA", None)
    if isa is not None:
        environment["QCOMPILE_ISA"] = isa
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.slow
@pytest.mark.parametrize("isa", runtime_ops.ISAS)
def test_every_isa(isa):
    """The ops again with each instruction set but the best one, which the plain run uses."""
    if isa not in runtime_ops.supported_isas():
        pytest.skip(f"this processor has no {isa}")
    if isa == runtime_ops.supported_isas()[-1]:
        pytest.skip(f"{isa} is what the plain run uses")
    names = ("products", "elementwise", "rows", "attention", "dynamic_attention")
    files = [str(HERE / f"test_{name}.py") for name in names]
    done = in_process(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files], isa)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("isa", ["sse9", "AVX2"])
def test_unknown_isa_is_refused(isa):
    code = (
        "import onnxruntime as o; from qcompile import runtime_ops as r; "
        "r.register(o.SessionOptions())"
    )
    done = in_process(["-c", code], isa)
    supported = ", ".join(runtime_ops.supported_isas())
    assert done.returncode == 1
    assert (
        f"QCOMPILE_ISA={isa}: this processor and this build run {supported}. "
        "Set one of them, or unset QCOMPILE_ISA for the best." in done.stderr
    )


# What another kernel computes, too, on processors that this one is not for.
FASTER_WAYS = {"depthwise_u8_quads", "matmul_s8_table"}


def test_list_of_kernels():
    lines = runtime_ops.kernels()
    assert len(lines) == len(set(lines))
    order = {isa: i for i, isa in enumerate(runtime_ops.ISAS)}
    names = {name for name, _ in lines}
    for name in names:
        ladder = [order[isa] for n, isa in lines if n == name]
        if name not in FASTER_WAYS:
            assert ladder[0] == 0, f"{name} has no scalar kernel"
        assert ladder == sorted(ladder), f"{name}: the lines are not in the order of the ladder"


def test_register_twice():
    options = ort.SessionOptions()
    runtime_ops.register(options)
    runtime_ops.register(options)


def test_one_symbol():
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(runtime_ops.library_path())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[-1] for line in listing.stdout.splitlines()] == ["RegisterCustomOps"]


def test_symbolic_shapes():
    weight = random_weight(np.random.default_rng(0), 20, 36, get("int4"), 0, "f16")
    kind = {"activation": "dynamic", "activation_bits": 8}
    inputs = [np.zeros((1, 2, 36), np.float32), pack(weight)]
    attributes = weight_attributes(weight) | kind
    model = build("QMatMul", inputs, attributes, [(1, 3)], dims={0: ["batch", "tokens", 36]})
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == ["batch", "tokens", 20]
    inputs = [np.zeros((1, 8, 8, 4), np.float32), pack(weight)]
    attributes |= {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]}
    model = build("QConv", inputs, attributes, [(1, 4)], dims={0: ["batch", 9, 8, 4]})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == ["batch", 5, 8, 20]


MEASURE = """
import re, sys, numpy as np, onnxruntime as ort
from qcompile import runtime_ops
options = ort.SessionOptions()
options.intra_op_num_threads = 2
runtime_ops.register(options)
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for rows in (1, 64):
    session.run(None, {"x": np.ones((rows, 8192), np.float32)})
status = open("/proc/self/status").read()
print(re.search(r"RssAnon:\\s+(\\d+)", status)[1])
"""


@pytest.mark.slow
def test_weights_are_used_in_place(tmp_path):
    """600 MB of packed weights run with at most 150 MB of memory that is not the mapped file."""
    size, layers = 8192, 18
    weight = random_weight(np.random.default_rng(0), 64, size, get("int4"), 128, "f16")
    packed = np.tile(pack(weight), size // 64)
    attributes = weight_attributes(weight) | {"N": size, "activation": "dynamic"}
    attributes["activation_bits"] = 8
    nodes, initializers = [], []
    with (tmp_path / "weights").open("wb") as file:
        for i in range(layers):
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.UINT8, dims=[packed.size])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", "weights"), ("offset", file.tell()), ("length", packed.size),
            ):  # fmt: skip
                tensor.external_data.add(key=key, value=str(value))
            file.write(packed.tobytes())
            file.write(bytes(-file.tell() % 4096))
            initializers.append(tensor)
            source = "x" if i == 0 else f"y{i - 1}"
            nodes.append(
                helper.make_node(
                    "QMatMul", [source, f"w{i}"], [f"y{i}"], domain="com.qcompile", **attributes
                )
            )
        total = file.tell()
    assert total >= 600e6
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "deep",
        [value("x", 1, ["rows", size])],
        [value(f"y{layers - 1}", 1, ["rows", size])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.qcompile", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    done = in_process(["-c", MEASURE, str(tmp_path / "model.onnx")])
    assert done.returncode == 0, done.stderr
    assert int(re.findall(r"\d+", done.stdout)[-1]) * 1024 <= 150e6
