# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - tables
"""Speed of the packed convolutions as ratios to ONNX Runtime, measured interleaved in one process.

    python -m benchmarks.convolutions [--threads N] [--rounds N]

A ratio is the median of the rounds of (ORT's time / ours): 2.0 is twice as fast as ORT.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.interleave import idle_options
from qcompile import runtime_ops
from qcompile.formats import get
from qcompile.layouts.n16k4 import N16K4
from qcompile.numerics.conv import Window
from tests.runtime_ops import single_op as one

Run = Callable[[], object]


def plain_session(graph, threads: int) -> ort.InferenceSession:
    """ORT's own ops at its default optimisation."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = idle_options(threads)  # exact without VNNI
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def bound(session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> Run:
    """A run without copies of inputs and outputs."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def ratios(ours: list[Run], peers: dict[str, list[Run]], rounds: int, repeat: int = 1) -> str:
    """Median time of ours, and of every peer divided by ours; each list is rotated through."""
    times: dict[str, list[float]] = {name: [] for name in ["ours", *peers]}
    runs = {"ours": ours} | peers
    for i in range(rounds + 3):
        for name, cases in runs.items():
            case = cases[i % len(cases)]
            start = time.perf_counter()
            for _ in range(repeat):
                case()
            times[name].append((time.perf_counter() - start) / repeat)
    median = {name: float(np.median(t[3:])) for name, t in times.items()}
    text = f"{median['ours'] * 1e6:9.1f} us"
    return text + "".join(f"   {n}/ours {median[n] / median['ours']:5.2f}" for n in peers)


def conv_peers(rng, x, n: int, window: Window, group: int, threads: int) -> dict[str, list[Run]]:
    """ORT's fp32 Conv and its QDQ int8 one (QLinearConv after fusion), NCHW as ORT has it."""
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    channels = x.shape[3]
    w = rng.standard_normal((n, channels // group, *window.kernel)).astype(np.float32) * 0.05
    attributes = {
        "kernel_shape": window.kernel,
        "pads": window.pads,
        "strides": window.strides,
        "group": group,
    }
    value = helper.make_tensor_value_info
    real = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], **attributes),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "g",
        [value("x", 1, list(nchw.shape))],
        [value("y", 1, None)],
        [numpy_helper.from_array(w, "w")],
    )
    codes = np.clip(np.rint(w / 0.002), -127, 127).astype(np.int8)
    constants = {
        "xs": np.float32(0.02), "xz": np.uint8(128), "ws": np.full(n, 0.002, np.float32),
        "wz": np.zeros(n, np.int8), "ys": np.float32(0.05), "yz": np.uint8(0), "w": codes,
    }  # fmt: skip
    nodes = [
        helper.make_node(
            "QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], **attributes
        )
    ]
    integer = helper.make_graph(
        nodes,
        "g",
        [value("x", 2, list(nchw.shape))],
        [value("y", 2, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return {
        "fp32": [bound(plain_session(real, threads), {"x": nchw.astype(np.float32)})],
        "int8": [bound(plain_session(integer, threads), {"x": nchw})],
    }


def conv(threads: int, rounds: int) -> None:
    """The convolutions of ResNet-20 on CIFAR, larger ones, and depthwise ones."""
    rng = np.random.default_rng(0)
    three = Window((3, 3), (1, 1), (1, 1, 1, 1))
    cases = [
        (32, 3, 16, three, 1), (32, 16, 16, three, 1), (16, 32, 32, three, 1), (8, 64, 64, three, 1),
        (32, 16, 32, Window((3, 3), (2, 2), (1, 1, 1, 1)), 1), (56, 64, 64, three, 1),
        (14, 256, 256, three, 1), (28, 128, 512, Window((1, 1)), 1), (56, 96, 96, three, 96),
        (14, 384, 384, three, 384),
    ]  # fmt: skip
    for size, channels, n, window, group in cases:
        x = rng.integers(0, 256, (1, size, size, channels)).astype(np.uint8)
        peers = conv_peers(rng, x, n, window, group, threads)
        for name in ("int8", "int4", "int2"):
            depthwise = group > 1
            k = window.kernel[0] * window.kernel[1] * channels // group
            weight = one.random_weight(rng, n, k, get(name), 0, "none")
            layout = "kc/1" if depthwise else N16K4.name
            attributes = one.weight_attributes(weight, layout) | one.window_attributes(
                window, group
            )
            attributes |= {
                "activation": "static", "x_zero_point": 128, "y_zero_point": 0, "y_min": 0, "y_max": 255,
            }  # fmt: skip
            inputs = [x, one.pack(weight, layout), None, np.full(n, 1e-3, np.float32)]
            model = one.build("QConv", inputs, attributes, [(TensorProto.UINT8, 4)])
            ours = bound(one.session(model, threads), {"input_0": x})
            text = ratios([ours], peers, rounds, repeat=20)
            shape = f"{size}x{size} {channels}->{n} {window.kernel[0]}x{window.kernel[1]}"
            print(f"conv {shape:20} {'depthwise ' if depthwise else ''}{name} {text}", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    print(f"{runtime_ops.supported_isas()[-1]}, {arguments.threads} thread(s)")
    conv(arguments.threads, arguments.rounds)


if __name__ == "__main__":
    main()
