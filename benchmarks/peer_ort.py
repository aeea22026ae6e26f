# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's quantizer for benchmarks.peers: static (QDQ, U8S8, a scale per channel, minmax)
or nbits (MatMulNBits, 4 bits, blocks of 32, round to nearest).
"""

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peer_child import Reader, run


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, way: str) -> None:
    """As its documentation shows it, the preparation included."""
    if way == "nbits":
        quantizer = MatMulNBitsQuantizer(onnx.load(model), bits=4, block_size=32)
        quantizer.process()
        quantizer.model.save_model_to_file(str(output / "model.onnx"))
        return
    prepared = output / "prepared.onnx"
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(output / "model.onnx"),
        Reader(inputs),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    prepared.unlink()


if __name__ == "__main__":
    run(quantize)
