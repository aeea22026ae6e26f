# SPDX-License-Identifier: Apache-2.0
"""NNCF for benchmarks.peers: static activations by nncf.quantize (the mixed preset), float ones by
compress_weights with a zero point, groups of 32 or the next size that fits, and scale estimation.
"""

from pathlib import Path

import nncf
import numpy as np
import onnx

from benchmarks.peer_child import NotOffered, Setting, feeds, run, wide_edges

MODES = {
    4: nncf.CompressWeightsMode.INT4_ASYM,
    3: nncf.CompressWeightsMode.INT3_SYM,
    2: nncf.CompressWeightsMode.INT2_SYM,
}


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, setting: Setting) -> None:
    """Its defaults but for the preset and the groups."""
    floats, data = onnx.load(model), nncf.Dataset(feeds(inputs))
    if setting.preset == "w8a8":
        quantized = nncf.quantize(floats, data, preset=nncf.QuantizationPreset.MIXED)
    elif setting.activation == "16":
        fallback = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=16
        )
        quantized = nncf.compress_weights(
            floats,
            mode=MODES[setting.weight_bits],
            group_size=32,
            dataset=data,
            scale_estimation=True,
            ignored_scope=nncf.IgnoredScope(names=wide_edges(model, setting)),
            advanced_parameters=fallback,
        )
    else:
        raise NotOffered(f"{setting.preset}: nncf.quantize has 8 bits")
    onnx.save(quantized, output / "model.onnx")


if __name__ == "__main__":
    run(quantize)
