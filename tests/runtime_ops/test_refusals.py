# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - a message reads best in one line
"""Every refusal names op, node, numbers, rule and cure: the whole message is compared."""

import re

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import get
from tests.runtime_ops.single_op import build, pack, random_weight, session, weight_attributes

AGAIN = "Pack the model again with this version of qcompile."
DYNAMIC = {"activation": "dynamic", "activation_bits": 8}


def refusal(op, inputs, attributes, outputs, fed=(0,), feeds=None, dims=None) -> str:
    """The library's message, without what ORT puts round it."""
    with pytest.raises(Exception) as caught:
        opened = session(build(op, inputs, attributes, outputs, fed, dims))
        opened.run(None, feeds or {f"input_{i}": inputs[i] for i in fed})
    found = re.search(rf'{op} "node": .*|com.qcompile.*|QCOMPILE.*', str(caught.value), re.DOTALL)
    assert found, str(caught.value)
    return found[0]


def matmul_case(**changes):
    weight = random_weight(np.random.default_rng(0), 20, 64, get("int4"), 32, "f16")
    x = np.zeros((2, 64), np.float32)
    attributes = weight_attributes(weight) | DYNAMIC | changes
    return [x, pack(weight)], attributes


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"abi": 2}, f"abi = 2; this library has abi 1 (docs/ops.md). {AGAIN}"),
        (
            {"layout": "n16k4/9"},
            f'layout = "n16k4/9"; this library has n16k4/1, n16k4s/1, n16k4q/1, n16k4p/1, n16k4c/1, kc/1 and rows/1 (docs/layouts.md). {AGAIN}',
        ),
        ({"bits": 9}, "bits = 9 is not in 1 ... 8 (docs/ops.md). Correct bits."),
        (
            {"block_size": 20},
            "block_size = 20 of 4 bits is no multiple of 8 (docs/layouts.md: n16k4/1). Use a block size that is one.",
        ),
        (
            {"K": 72},
            f"W has 1152 bytes; n16k4/1 of N = 20, K = 72, int4 (4 bits), block_size 32 needs 1344 (docs/layouts.md). {AGAIN}",
        ),
        (
            {"N": 1 << 31, "K": 1 << 31},
            "N = 2147483648, K = 2147483648 is more than 2^56 codes (sizes are int64). Split the weight.",
        ),
        (
            {"activation": "float"},
            'activation = "float"; it is f32, dynamic or static (docs/ops.md). Correct it.',
        ),
        (
            {"activation_bits": 9},
            "activation_bits = 9 is not in 2 ... 8 (docs/ops.md). Correct activation_bits.",
        ),
        (
            {"activation_reach": 126.0},
            "activation_reach = 126.000000; it is from 127 to 1016 (docs/numerics.md N4: the largest code to 8 times that). Correct it.",
        ),
        (
            {"table": [1, 2, 3]},
            f"table of 3 values with bits = 4, is_signed = 1, has_zero_point = 0 (docs/ops.md: 2^bits values, is_signed = 0, has_zero_point = 0). {AGAIN}",
        ),
        (
            {"table": [40000] * 16, "is_signed": 0},
            "the table of int4 reaches 40000 (docs/ops.md: -32768 ... 32767 for integer products). Use activation f32, or a table that fits.",
        ),
        (
            {"scale_format": "f64"},
            f'scale_format = "f64"; it is none, e8m0, ue4m3, f16, bf16 or f32 (docs/ops.md). {AGAIN}',
        ),
        (
            {"tensor_scale": 0.0},
            "tensor_scale = 0.000000 (docs/ops.md: a finite number above 0). Correct it.",
        ),
        (
            {"table": [16777217] * 16, "is_signed": 0},
            "table[0] = 16777217 (docs/ops.md: integers that a float32 holds). Round the table.",
        ),
    ],
)
def test_matmul_attributes(changes, message):
    inputs, attributes = matmul_case(**changes)
    got = refusal("QMatMul", inputs, attributes, [(TensorProto.FLOAT, 2)])
    assert got == f'QMatMul "node": {message}'


def test_matmul_operands():
    inputs, attributes = matmul_case()
    short = np.zeros((2, 63), np.float32)
    got = refusal("QMatMul", [short, inputs[1]], attributes, [(TensorProto.FLOAT, 2)])
    rule = "(docs/ops.md: X [..., K]). Correct the graph."
    assert got == f'QMatMul "node": X is [2, 63]; K = 64 {rule}'
    bias = np.zeros(19, np.float32)
    got = refusal("QMatMul", [*inputs, bias], attributes, [(TensorProto.FLOAT, 2)])
    assert got == (
        'QMatMul "node": bias has 19 elements of ONNX type 1; N = 20 of type 1 are needed (docs/ops.md). Correct bias.'
    )


@pytest.mark.parametrize(
    "multiplier,changes,message",
    [
        (
            np.ones(20, np.float32),
            {},
            "multiplier has 20 elements of ONNX type 1; N = 20 int32 pairs are needed "
            "(docs/numerics.md N11, N12, N16, N17). Correct multiplier.",
        ),
        (
            np.int32([[-1] * 20, [31] * 20]),
            {},
            "multiplier 0 is -1 * 2^-31 (docs/numerics.md N12: m >= 0 and 1 <= e <= 62). Correct multiplier.",
        ),
        (
            np.int32([[1] * 20, [31] * 19 + [63]]),
            {},
            "multiplier 19 is 1 * 2^-63 (docs/numerics.md N12: m >= 0 and 1 <= e <= 62). Correct multiplier.",
        ),
        (
            np.int32([[1] * 20, [31] * 20]),
            {"output": "bytes"},
            'output = "bytes"; it is codes or i32 (docs/ops.md). Correct it.',
        ),
        (
            np.int32([[1] * 20, [31] * 20]),
            {"requantize": "binary"},
            'requantize = "binary"; it is f32 or dyadic (docs/ops.md). Correct it.',
        ),
    ],
)
def test_dyadic_operands(multiplier, changes, message):
    weight = random_weight(np.random.default_rng(0), 20, 64, get("int4"), 0, "none")
    inputs = [np.zeros((2, 64), np.uint8), pack(weight), np.zeros(20, np.int32), multiplier]
    static = {"activation": "static", "requantize": "dyadic", "x_zero_point": 0}
    static |= {"y_zero_point": 0, "y_min": 0, "y_max": 255}
    attributes = weight_attributes(weight) | static | changes
    got = refusal("QMatMul", inputs, attributes, [(TensorProto.UINT8, 2)])
    assert got == f'QMatMul "node": {message}'


def test_dyadic_multiplier_of_a_sum():
    a = np.zeros((2, 2), np.uint8)
    names = ("a_multiplier", "b_multiplier", "a_zero_point", "b_zero_point", "y_zero_point")
    attributes = dict(zip(names, (1.0, 2.0**29, 0, 0, 0), strict=True)) | {"y_min": 0, "y_max": 255}
    got = refusal(
        "QAdd", [a, a], attributes | {"requantize": "dyadic"}, [(TensorProto.UINT8, 2)], (0, 1)
    )
    assert got == (
        'QAdd "node": b_multiplier = 536870912.000000 (docs/numerics.md N12: below 2^29). Correct b_multiplier.'
    )


def test_weight_that_is_no_constant_is_checked_when_it_comes():
    inputs, attributes = matmul_case()
    feeds = {"input_0": inputs[0], "input_1": inputs[1][:-1]}
    got = refusal(
        "QMatMul",
        inputs,
        attributes,
        [(TensorProto.FLOAT, 2)],
        (0, 1),
        feeds,
        {1: ["bytes"]},
    )
    assert got == (
        'QMatMul "node": W has 1151 bytes; n16k4/1 of N = 20, K = 64, int4 (4 bits), block_size 32 needs 1152 '
        f"(docs/layouts.md). {AGAIN}"
    )


def test_conv_channels_and_rank():
    weight = random_weight(np.random.default_rng(0), 8, 36, get("int4"), 0, "none")
    attributes = weight_attributes(weight) | {"activation": "static", "kernel_shape": [3, 3]}
    attributes |= {"x_zero_point": 0, "y_zero_point": 0, "y_min": 0, "y_max": 255}
    inputs = [np.zeros((1, 5, 5, 3), np.uint8), pack(weight), None, np.ones(8, np.float32)]
    output = [(TensorProto.UINT8, 4)]
    assert refusal("QConv", inputs, attributes, output) == (
        'QConv "node": X is [1, 5, 5, 3]; the weight has 4 input channels (docs/ops.md: X is NHWC). Correct the graph.'
    )
    assert refusal("QConv", inputs, attributes | {"kernel_shape": [5, 3]}, output) == (
        'QConv "node": layout n16k4/1, N = 8, K = 36, group = 1, 15 taps (docs/ops.md: n16k4/1 with K = kh*kw*C/group, '
        f"or kc/1 with group = C = N and K = kh*kw). {AGAIN}"
    )
    assert refusal("QConv", inputs, attributes | {"pads": [0, 0, 0, -1]}, output) == (
        'QConv "node": pads = [0, 0, 0, -1] (docs/ops.md: 4 ints of 0 ... 1048576). Correct pads.'
    )


@pytest.mark.parametrize("value", [1, 1.5, "one", [0.5]])
def test_a_list_of_ints_that_is_none(value):
    """ONNX Runtime gives an empty list for it, which would mean the default."""
    weight = random_weight(np.random.default_rng(0), 32, 72, get("int4"), 0, "none")
    given = weight_attributes(weight) | {"activation": "static", "kernel_shape": [3, 3]}
    given |= {"x_zero_point": 0, "y_zero_point": 0, "y_min": 0, "y_max": 255, "strides": value}
    x, operand = np.zeros((1, 9, 9, 8), np.uint8), np.ones(32, np.float32)
    inputs = [x, pack(weight), np.zeros(32, np.int32), operand]
    assert refusal("QConv", inputs, given, [(TensorProto.UINT8, 4)]) == (
        'QConv "node": attribute strides is no list of ints (docs/ops.md). '
        "Write the model again with this version of qcompile."
    )


def test_output_of_a_static_product():
    weight = random_weight(np.random.default_rng(0), 8, 36, get("int4"), 0, "none")
    attributes = weight_attributes(weight) | {"activation": "static", "x_zero_point": 0}
    inputs = [np.zeros((2, 36), np.uint8), pack(weight), None, np.ones(8, np.float32)]
    got = refusal("QMatMul", inputs, attributes | {"output": "f64"}, [(TensorProto.UINT8, 2)])
    assert got == ('QMatMul "node": output = "f64"; it is codes or f32 (docs/ops.md). Correct it.')


def test_resize():
    attributes = {"mode": "half_pixel", "multiplier": 1.0, "x_zero_point": 0, "y_zero_point": 0}
    attributes |= {"y_min": 0, "y_max": 255}
    inputs, output = [np.zeros((1, 5, 5, 3), np.uint8)], [(TensorProto.UINT8, 4)]
    rule = "docs/ops.md: 2 scales of 0 ... 2^20 or 2 sizes of 1 ... 2^31"
    for given, shown in [
        ({"scales": [2.0]}, "1 scales and sizes = []"),
        ({"scales": [2.0, -1.0]}, "2 scales and sizes = []"),
        ({"sizes": [0, 5]}, "0 scales and sizes = [0, 5]"),
        ({"sizes": [3, 5], "scales": [1.0, 1.0]}, "2 scales and sizes = [3, 5]"),
    ]:
        assert refusal("QResize", inputs, attributes | given, output) == (
            f'QResize "node": {shown} ({rule}). Correct scales or sizes.'
        )
    sizes = {"sizes": [3, 5]}
    assert refusal("QResize", inputs, attributes | sizes | {"mode": "cubic"}, output) == (
        'QResize "node": mode = "cubic"; it is half_pixel, pytorch_half_pixel, asymmetric or '
        "align_corners (docs/ops.md). Correct it."
    )
    empty = [np.zeros((1, 0, 5, 3), np.uint8)]
    assert refusal("QResize", empty, attributes | sizes, output) == (
        'QResize "node": X is [1, 0, 5, 3] (docs/ops.md: X is NHWC, 4 dimensions, no empty map). '
        "Correct the graph."
    )


def test_lut_table():
    inputs = [np.zeros((2, 36), np.uint8), np.zeros(255, np.uint8)]
    message = 'QLut "node": table is [255] (docs/ops.md: table [256]). Correct table.'
    output = [(TensorProto.UINT8, 2)]
    assert refusal("QLut", inputs, {}, output) == message
    assert refusal("QLut", inputs, {}, output, (0, 1)) == message


def test_pool_of_ceil_mode_with_pads():
    attributes = {"mode": "average", "kernel_shape": [2, 2], "ceil_mode": 1, "multiplier": 1.0}
    attributes |= {"count_include_pad": 1, "x_zero_point": 0, "y_zero_point": 0}
    inputs = [np.zeros((1, 5, 5, 3), np.uint8)]
    got = refusal(
        "QPool", inputs, attributes | {"y_min": 0, "y_max": 255}, [(TensorProto.UINT8, 4)]
    )
    assert got == (
        'QPool "node": ceil_mode = 1 with count_include_pad = 1 (docs/ops.md). Correct one of them.'
    )


@pytest.mark.parametrize(
    ("scale_format", "count", "text"),
    [("none", None, "no scales"), ("none", 4, "4 scales"), ("f32", 5, "5 scales")],
)
def test_gather_scales(scale_format, count, text):
    weight = random_weight(np.random.default_rng(0), 5, 8, get("int8"), 0, scale_format)
    inputs = [np.array([0], np.int64), pack(weight)]
    inputs += [] if count is None else [np.ones(count, np.float32)]
    got = refusal("QGather", inputs, weight_attributes(weight), [(TensorProto.FLOAT, 2)])
    assert f"scale_format {scale_format} with {text}" in got


def test_gather_index():
    weight = random_weight(np.random.default_rng(0), 5, 8, get("int4"), 0, "f16")
    inputs = [np.array([0, 5], np.int64), pack(weight)]
    got = refusal("QGather", inputs, weight_attributes(weight), [(TensorProto.FLOAT, 2)])
    assert got == (
        'QGather "node": indices[1] = 5 with N = 5 (docs/ops.md: -N ... N-1). Correct the indices.'
    )


def test_add_shapes():
    attributes = {"a_multiplier": 1.0, "b_multiplier": 1.0, "a_zero_point": 0, "b_zero_point": 0}
    attributes |= {"y_zero_point": 0, "y_min": 0, "y_max": 255}
    inputs = [np.zeros((2, 3), np.uint8), np.zeros((4,), np.uint8)]
    got = refusal("QAdd", inputs, attributes, [(TensorProto.UINT8, 2)], (0, 1))
    assert got == (
        'QAdd "node": A is [2, 3], B is [4] (docs/ops.md: shapes that broadcast). Correct the graph.'
    )
