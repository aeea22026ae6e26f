# SPDX-License-Identifier: Apache-2.0
"""AMD Quark for benchmarks.peers: static (A8W8, a scale per channel, minmax) or nbits (MatMulNBits,
4 bits, blocks of 32).
"""

from pathlib import Path

import numpy as np
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config import Config, get_default_config

from benchmarks.peer_child import Reader, run


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, way: str) -> None:
    """Its preset A8W8 or MATMUL_NBITS but for scales per channel and the size of the blocks."""
    config = get_default_config("MATMUL_NBITS" if way == "nbits" else "A8W8")
    if way == "nbits":
        config.extra_options["MatMulNBitsParams"]["GroupSize"] = 32
    else:
        config.per_channel = True
    quantizer = ModelQuantizer(Config(global_quant_config=config))
    quantizer.quantize_model(str(model), str(output / "model.onnx"), Reader(inputs))


if __name__ == "__main__":
    run(quantize)
