# SPDX-License-Identifier: Apache-2.0
"""onnxsim for benchmarks.peers: static (quantize_static over the full graph) or nbits
(quantize_weight_only_matmul_nbits: 4 bits, blocks of 32).
"""

from pathlib import Path

import numpy as np
import onnx
import onnxsim

from benchmarks.peer_child import feeds, run


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, way: str) -> None:
    """Its defaults but for the full graph."""
    floats = onnx.load(model)
    if way == "nbits":
        quantized = onnxsim.quantize_weight_only_matmul_nbits(floats)
    else:
        quantized = onnxsim.quantize_static(floats, feeds(inputs), full_graph=True)
    onnx.save(quantized, output / "model.onnx")


if __name__ == "__main__":
    run(quantize)
