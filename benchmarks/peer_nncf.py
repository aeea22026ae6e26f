# SPDX-License-Identifier: Apache-2.0
"""NNCF for benchmarks.peers: static (nncf.quantize, the mixed preset) or nbits (compress_weights,
4 bits with a zero point, groups of 32).
"""

from pathlib import Path

import nncf
import numpy as np
import onnx

from benchmarks.peer_child import feeds, run


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, way: str) -> None:
    """Its defaults but for the preset and the group."""
    floats = onnx.load(model)
    if way == "nbits":
        mode = nncf.CompressWeightsMode.INT4_ASYM
        quantized = nncf.compress_weights(floats, mode=mode, group_size=32)
    else:
        quantized = nncf.quantize(
            floats, nncf.Dataset(feeds(inputs)), preset=nncf.QuantizationPreset.MIXED
        )
    onnx.save(quantized, output / "model.onnx")


if __name__ == "__main__":
    run(quantize)
