# SPDX-License-Identifier: Apache-2.0
"""Whether OpenVINO's int8 convolutions are exact on this processor.

Without VNNI two products of bytes are added in 16 bits, where 2 · 255 · 127 does not fit; what
saturates is fast and wrong.
"""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

CHANNELS, OUTPUTS, SIDE = 256, 64, 14
EXACT = 255 * 127 * CHANNELS


def extreme_model() -> ModelProto:
    """A QDQ convolution [1, 256, 14, 14] → [1, 64, 14, 14] of the largest weights, scales 1."""
    constants = {
        "one": np.float32(1),
        "nothing": np.uint8(0),
        "weight": np.full((OUTPUTS, CHANNELS, 1, 1), 127, np.int8),
        "scales": np.ones(OUTPUTS, np.float32),
        "points": np.zeros(OUTPUTS, np.int8),
        "y_scale": np.float32(EXACT / 200),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "nothing"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "one", "nothing"], ["x_back"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "points"], ["w"], axis=0),
        helper.make_node("Conv", ["x_back", "w"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "y_scale", "nothing"], ["y_codes"]),
        helper.make_node("DequantizeLinear", ["y_codes", "y_scale", "nothing"], ["y"]),
    ]
    value, arrays = helper.make_tensor_value_info, []
    for name, array in constants.items():
        arrays.append(numpy_helper.from_array(np.asarray(array), name))
    x = value("x", TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])
    graph = helper.make_graph(nodes, "g", [x], [value("y", TensorProto.FLOAT, None)], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def openvino_share() -> float:
    """OpenVINO's result of the largest activations, as a part of the exact sum: 1, or less."""
    import openvino as ov

    core = ov.Core()
    read = core.read_model(model=extreme_model().SerializeToString())
    request = core.compile_model(read, "CPU").create_infer_request()
    x = np.full((1, CHANNELS, SIDE, SIDE), 255, np.float32)
    (y,) = request.infer({"x": x}).values()
    return float(y.min()) / EXACT
