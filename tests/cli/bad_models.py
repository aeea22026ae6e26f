# SPDX-License-Identifier: Apache-2.0
"""Files that are no model that can be compiled, and what is said of each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from qcompile import session
from tests.inputs.old_ops import text_of
from tests.pipeline import test_recurrent
from tests.pipeline.nets import Net, cnn, mlp

Make = Callable[[Path], None]


def write(data: bytes) -> Make:
    return lambda path: path.write_bytes(data) and None


def truncated(path: Path) -> None:
    mlp().save(path)
    path.write_bytes(path.read_bytes()[:-5000])


def future_opset(path: Path) -> None:
    model = mlp().proto()
    model.opset_import[0].version = session.newest_opset() + 1
    onnx.save(model, path)


def no_nodes(path: Path) -> None:
    model = mlp().proto()
    del model.graph.node[:]
    onnx.save(model, path)


def ancient_opset(path: Path) -> None:
    model = mlp().proto()
    model.opset_import[0].version = 6
    onnx.save(model, path)


def future_ir_version(path: Path) -> None:
    model = mlp().proto()
    model.ir_version = session.newest_ir_version() + 1
    onnx.save(model, path)


def unknown_ops(path: Path) -> None:
    model = mlp().proto()
    model.opset_import.add(domain="my.ops", version=1)
    for i in range(9):
        model.graph.node.add(op_type="Rotate", domain="my.ops", input=["x"], output=[f"turned{i}"])
    onnx.save(model, path)


def scan_of_opset_8(path: Path) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 3, opset_import: ["": 8]> f {text_of("Scan", 8)}'
    )
    onnx.save(model, path)


def no_weights(path: Path) -> None:
    net = Net()
    net.node("Relu", [net.input("x", ["batch", 4])], "y")
    net.output("y", ["batch", 4])
    net.save(path)


def not_finite(path: Path) -> None:
    net = mlp()
    net.weights["first.weight"][2, 3] = np.nan
    net.weights["y.weight"][0, 0] = np.inf
    net.save(path)


def line_break(path: Path) -> None:
    net = Net()
    net.linear(net.input("x\n", ["batch", 4]), 4, 4, "y")
    net.output("y", ["batch", 4])
    net.save(path)


def too_large(path: Path) -> None:
    net = mlp()
    net.weights["first.weight"][2, 3] = 2e38
    net.save(path)


def circle(path: Path) -> None:
    model = mlp().proto()
    model.graph.node[0].input[0] = "first"
    onnx.save(model, path)


def made_twice(path: Path) -> None:
    model = mlp().proto()
    model.graph.node[3].output[0] = "first"
    model.graph.node[4].output[0] = "x"
    onnx.save(model, path)


def no_text(path: Path) -> None:
    data = mlp().proto().SerializeToString()
    data = data.replace(b"/first_sum/Add", b"/first\xfasum/Add")
    path.write_bytes(data.replace(b"middle_sum", b"middle\xfcsum"))


def no_type(path: Path) -> None:
    model = mlp().proto()
    model.graph.input[0].type.tensor_type.elem_type = 0
    model.graph.output[0].type.tensor_type.elem_type = 0
    onnx.save(model, path)


def no_attribute(path: Path) -> None:
    net = mlp()
    net.node("Concat", ["y", "y"], "twice")
    net.output("twice", ["batch", 32])
    onnx.save(net.proto(check=False), path)


def large_steps(path: Path) -> None:
    model = cnn().proto()
    pool = next(n for n in model.graph.node if n.op_type == "MaxPool")
    next(a for a in pool.attribute if a.name == "strides").ints[1] = 2**40
    onnx.save(model, path)


def recurrent_batch_of_none(path: Path) -> None:
    model = test_recurrent.net().proto()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0
    onnx.save(model, path)


def refused_by_onnxruntime(path: Path) -> None:
    model = mlp().proto()
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, path)


NOT_VALID = "m.onnx is no valid model: export it again\n"
NOT_ONNX = "m.onnx is not an ONNX model, or it is truncated ({} bytes could not be parsed)"
CASES: dict[str, tuple[Make, str]] = {
    "text": (write(b"hello, this is no model"), NOT_ONNX.format(23)),
    "random": (write(np.random.default_rng(0).bytes(4000)), NOT_ONNX.format(4000)),
    "empty": (write(b""), "m.onnx is empty (0 bytes)"),
    "missing": (lambda path: None, "m.onnx: no such file"),
    "folder": (lambda path: path.mkdir(), "m.onnx is a folder; an .onnx file is needed"),
    "no nodes": (
        no_nodes,
        "m.onnx is not an ONNX model: it has no nodes, no outputs or no opset",
    ),
    "opset": (
        future_opset,
        f"m.onnx has opset {session.newest_opset() + 1}; ONNX Runtime {ort.__version__} and "
        f"qcompile run up to {session.newest_opset()}: export it with an older opset",
    ),
    "old opset": (
        ancient_opset,
        "m.onnx has opset 6; ONNX Runtime runs from 7 on: export it with a newer opset",
    ),
    "ir version": (
        future_ir_version,
        f"m.onnx has IR version {session.newest_ir_version() + 1}; ONNX Runtime {ort.__version__} "
        f"and qcompile read up to {session.newest_ir_version()}: "
        "export it with an older onnx package",
    ),
    "unknown ops": (
        unknown_ops,
        "m.onnx has ops that ONNX Runtime lacks: give their library with --op-library (in Python "
        "qcompile.use_op_library), or export the model with ONNX ops or with functions that say "
        "what they do\n"
        + "".join(f'  Rotate of domain my.ops (node "turned{i}")\n' for i in range(8))
        + "  and 1 more",
    ),
    "scan": (
        scan_of_opset_8,
        'Scan "y" is Scan of opset 8, which has batches and newer ones do not: '
        "export it with opset 9 or newer",
    ),
    "no weights": (
        no_weights,
        "nothing to quantize: the model has no Conv, MatMul or Gemm with a constant weight "
        "(qcompile quantizes weights that are stored in the file)",
    ),
    "not finite": (
        not_finite,
        'MatMul "/first_product/MatMul": its weight first.weight_nk holds NaN or infinity: '
        "repair the model, or leave the node out with --nodes-to-exclude\n"
        'MatMul "/y_product/MatMul": its weight y.weight_nk holds NaN or infinity: '
        "repair the model, or leave the node out with --nodes-to-exclude",
    ),
    "too large": (
        too_large,
        'MatMul "/first_product/MatMul": its weight first.weight_nk holds 2e+38; with f32 scales '
        "at most 1.84e+19 has codes: repair the model, or leave the node out with "
        "--nodes-to-exclude",
    ),
    "circle": (
        circle,
        NOT_VALID + '  "/first_product/MatMul", "/first_sum/Add", "/first/Relu" read each other\'s '
        "outputs in a circle",
    ),
    "made twice": (made_twice, NOT_VALID + '  "first" is made 2 times\n  "x" is made 2 times'),
    "no text": (
        no_text,
        NOT_VALID + "  graph.node[1].name is no UTF-8 text: b'/first\\xfasum/Add'\n"
        "  graph.node[4].output[0] is no UTF-8 text: b'middle\\xfcsum'\n"
        "  graph.node[4].name is no UTF-8 text: b'/middle\\xfcsum/Add'\n"
        "  graph.node[5].input[0] is no UTF-8 text: b'middle\\xfcsum'",
    ),
    "no type": (
        no_type,
        NOT_VALID + '  input "x" has no element type\n  output "y" has no element type',
    ),
    "large steps": (
        large_steps,
        NOT_VALID + '  MaxPool "/half/MaxPool" has strides [2, 1099511627776]; at most 1048576 of '
        "each are possible",
    ),
    "recurrent batch of none": (
        recurrent_batch_of_none,
        NOT_VALID + '  input "x" has the shape [seq,0,16], and ONNX Runtime\'s LSTM ("/l/LSTM") '
        "takes no batch of 0",
    ),
    "no attribute": (
        no_attribute,
        "ONNX Runtime refuses the model: [ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an "
        'invalid model. In Node, ("/twice/Concat", Concat, "", -1) : '
        '("y": tensor(float),"y": tensor(float),) -> ("twice": tensor(float),) , '
        "Error Required attribute 'axis' is missing.",
    ),
    "line break": (
        line_break,
        "m.onnx: the name 'x\\n' holds a line break: rename the tensor",
    ),
    "onnxruntime": (
        refused_by_onnxruntime,
        "ONNX Runtime refuses the model: [ONNXRuntimeError] : 1 : FAIL : This is an invalid "
        "model. Error: two nodes with same node name (same).",
    ),
}
