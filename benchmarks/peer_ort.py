# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's quantizers for benchmarks.peers: static activations by quantize_static (QDQ, a
scale per channel, minmax), float ones by MatMulNBitsQuantizer (blocks of 32, k_quant at 4 bits).
"""

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import (
    KQuantWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peer_child import NotOffered, Reader, Setting, run, wide_edges

WEIGHTS = {8: QuantType.QInt8, 4: QuantType.QInt4}
ACTIVATIONS = {"8": QuantType.QUInt8, "4": QuantType.QUInt4}


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, setting: Setting) -> None:
    """As its documentation shows it, the preparation included."""
    if setting.activation == "16":
        return _weights_alone(model, output, setting)
    if setting.weight_bits not in WEIGHTS or setting.activation not in ACTIVATIONS:
        raise NotOffered(f"{setting.preset}: quantize_static has 4 and 8 bits")
    prepared = output / "prepared.onnx"
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(output / "model.onnx"),
        Reader(inputs),
        quant_format=QuantFormat.QDQ,
        activation_type=ACTIVATIONS[setting.activation],
        weight_type=WEIGHTS[setting.weight_bits],
        per_channel=True,
        nodes_to_exclude=wide_edges(model, setting),
    )
    prepared.unlink()
    return None


def _weights_alone(model: Path, output: Path, setting: Setting) -> None:
    """4 bits by k_quant, others by rounding to nearest with a zero point a block."""
    if setting.weight_bits not in (2, 4, 8):
        raise NotOffered(f"{setting.preset}: MatMulNBits has 2, 4 and 8 bits")
    config = KQuantWeightOnlyQuantConfig() if setting.weight_bits == 4 else None
    quantizer = MatMulNBitsQuantizer(
        onnx.load(model),
        bits=setting.weight_bits,
        block_size=32,
        nodes_to_exclude=wide_edges(model, setting),
        algo_config=config,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(output / "model.onnx"))


if __name__ == "__main__":
    run(quantize)
