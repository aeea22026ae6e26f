# SPDX-License-Identifier: Apache-2.0
"""AMD Quark for benchmarks.peers: static activations (A8W8, a scale per channel, minmax) or float
ones (MatMulNBits, 4 bits, blocks of 32, HQQ).
"""

from pathlib import Path

import numpy as np
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config import Config, get_default_config

from benchmarks.peer_child import NotOffered, Reader, Setting, run

WAYS = {"w8a8": "A8W8", "w4a16": "MATMUL_NBITS"}


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, setting: Setting) -> None:
    """Its presets but for scales per channel, the size of the blocks and HQQ."""
    if setting.preset not in WAYS:
        raise NotOffered(f"{setting.preset}: below 8 bits it has block floats and MatMulNBits")
    config = get_default_config(WAYS[setting.preset])
    if setting.preset == "w4a16":
        config.extra_options["MatMulNBitsParams"] |= {"GroupSize": 32, "Algorithm": "HQQ"}
    else:
        config.per_channel = True
    quantizer = ModelQuantizer(Config(global_quant_config=config))
    quantizer.quantize_model(str(model), str(output / "model.onnx"), Reader(inputs))


if __name__ == "__main__":
    run(quantize)
