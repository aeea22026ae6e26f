# SPDX-License-Identifier: Apache-2.0
"""AIMET for benchmarks.peers: static activations, a scale per channel, below 8 bits AdaRound of 500
iterations a layer (it advises 15,000, thirty times as long). The result is its QDQ form.
"""

from pathlib import Path

import aimet_onnx
import numpy as np
import onnx
from aimet_onnx.common.defs import qtype

from benchmarks.peer_child import PRODUCTS, NotOffered, Setting, feeds, run, wide_edges

ITERATIONS = 4000
CONFIG = Path(aimet_onnx.__file__).parent / "common/quantsim_config/default_config_per_channel.json"
BITS = {8: aimet_onnx.int8, 4: aimet_onnx.int4}


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, setting: Setting) -> None:
    """Its defaults but for the types, scales per channel, and 8 bits for the edges."""
    if setting.weight_bits not in BITS or setting.activation not in ("8", "4"):
        raise NotOffered(f"{setting.preset}: QDQ models of it have 4 and 8 bits")
    floats, samples = onnx.load(model), feeds(inputs)
    simulated = aimet_onnx.QuantizationSimModel(
        floats,
        param_type=BITS[setting.weight_bits],
        activation_type=qtype.int(int(setting.activation)),
        config_file=str(CONFIG),
        providers=["CPUExecutionProvider"],
    )
    wide = wide_edges(model, setting)
    for node in floats.graph.node:
        if node.name in wide and node.op_type in PRODUCTS:
            for name in (*node.input[:2], *node.output):
                quantizer = simulated.qc_quantize_op_dict.get(name)
                if quantizer is not None:
                    quantizer.set_bitwidth(8)
    if setting.weight_bits < 8:
        aimet_onnx.apply_adaround(simulated, samples, num_iterations=ITERATIONS)
    simulated.compute_encodings(samples)
    onnx.save(simulated.to_onnx_qdq(prequantize_constants=True), output / "model.onnx")


if __name__ == "__main__":
    run(quantize)
