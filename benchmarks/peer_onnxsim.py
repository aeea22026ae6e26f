# SPDX-License-Identifier: Apache-2.0
"""onnxsim for benchmarks.peers: static activations by quantize_static over the full graph, float
ones by quantize_weight_only_int4 and apply_gptq, w4a4-dynamic by apply_quarot_gptq (a simulation).
"""

from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxsim

from benchmarks.peer_child import NotOffered, Setting, feeds, run


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, setting: Setting) -> None:
    """Its defaults but for the full graph and the samples; below 8 bits it needs opset 21."""
    floats, samples = onnx.load(model), feeds(inputs)
    if setting.weight_bits < 8:
        floats = onnx.version_converter.convert_version(floats, 21)
    ways = {
        "w8a8": lambda: onnxsim.quantize_static(floats, samples, full_graph=True),
        "w4a16": lambda: onnxsim.apply_gptq(
            floats, onnxsim.quantize_weight_only_int4(floats), calibration_data=samples
        ),
        "w3a16": lambda: onnxsim.apply_gguf_q3_k_quantization(floats),
        "w2a16": lambda: onnxsim.apply_gguf_q2_k_quantization(floats),
        "w4a4-dynamic": lambda: onnxsim.apply_quarot_gptq(floats, calibration_data=samples),
    }
    if setting.preset not in ways:
        raise NotOffered(f"{setting.preset}: no function for it")
    onnx.save(ways[setting.preset](), output / "model.onnx")


if __name__ == "__main__":
    run(quantize)
