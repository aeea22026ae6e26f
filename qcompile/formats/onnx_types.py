# SPDX-License-Identifier: Apache-2.0
"""Which formats ONNX has as element types: the one list of them, by ONNX's names.

ONNX 1.23: DequantizeLinear takes integers and blocks from opset 21, FLOAT4E2M1 from 23, scales of
FLOAT8E8M0 from 24, INT2 and UINT2 from 25, floats of 6 bits from 28. The code of a float is its bit
pattern there as here, so codes move between the two without a change.
"""

ONNX_TYPES = {
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (2, 4, 8)},
    "e2m1": "FLOAT4E2M1",
    "e2m3": "FLOAT6E2M3",
    "e3m2": "FLOAT6E3M2",
    "e4m3": "FLOAT8E4M3FN",
    "e5m2": "FLOAT8E5M2",
}
FORMAT_OF_TYPE = {kind: name for name, kind in ONNX_TYPES.items()}
ONNX_SCALES = {"f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16", "e8m0": "FLOAT8E8M0"}
# From which opset DequantizeLinear takes the type; int8 and uint8 in blocks from 21, too.
OPSET_OF_TYPE = {
    **{"INT8": 13, "UINT8": 13, "INT4": 21, "UINT4": 21, "INT2": 25, "UINT2": 25},
    **{"FLOAT8E4M3FN": 19, "FLOAT8E5M2": 19, "FLOAT4E2M1": 23, "FLOAT8E8M0": 24},
    **{"FLOAT6E2M3": 28, "FLOAT6E3M2": 28},
}
OPSET_OF_BLOCKS = 21


def onnx_type(name: str, scale: str | None = None) -> str | None:
    """The types of a format's codes and of the scales that it names, or None where ONNX has none.

    >>> onnx_type("int4"), onnx_type("e2m1", "e8m0"), onnx_type("int3", "e8m0")
    ('INT4', 'FLOAT4E2M1, FLOAT8E8M0', None)
    """
    codes = ONNX_TYPES.get(name)
    if codes is None or scale is None:
        return codes
    return f"{codes}, {ONNX_SCALES.get(scale, 'FLOAT8E4M3FN')}"
