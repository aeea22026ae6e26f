# SPDX-License-Identifier: Apache-2.0
"""Element types that NumPy lacks: ml_dtypes has them, an element a byte or two.

ONNX packs those of 4 and 2 bits, the first element in the lowest bits.
"""

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# What ONNX Runtime for Python neither takes nor gives as arrays, by its names.
NARROW = {
    t: np.dtype(t.numpy())
    for t in ir.DataType
    if t.name.startswith(("BFLOAT", "FLOAT4", "FLOAT8", "INT2", "UINT2", "INT4", "UINT4"))
}


def is_float(dtype: np.dtype) -> bool:
    """Of any width.

    >>> is_float(np.dtype(ml_dtypes.bfloat16)), is_float(np.dtype(ml_dtypes.int4))
    (True, False)
    """
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_integer(dtype: np.dtype) -> bool:
    """Of any width; bool is none."""
    return dtype.kind in "iu" or (dtype.kind == "V" and "int" in dtype.name)


def is_number(dtype: np.dtype) -> bool:
    """A float, an integer or a bool; no string, and not complex."""
    return dtype.kind == "b" or is_float(dtype) or is_integer(dtype)


def limits(dtype: np.dtype) -> tuple[int, int]:
    """The least and the largest integer of the type.

    >>> limits(np.dtype(ml_dtypes.int4)), limits(np.dtype(np.uint8))
    ((-8, 7), (0, 255))
    """
    info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def type_named(text: str) -> ir.TensorType | None:
    """The tensor that ONNX Runtime calls so; None for sequences, maps and optionals.

    >>> type_named("tensor(bfloat16)"), type_named("seq(tensor(float))")
    (Tensor(BFLOAT16), None)
    """
    name = text.removeprefix("tensor(").removesuffix(")").upper()
    dtype = ir.DataType.__members__.get(name)
    return None if dtype is None else ir.TensorType(dtype)


def to_bytes(array: NDArray, dtype: ir.DataType) -> NDArray:
    """The bytes of an ONNX tensor of a NARROW type, padded to an item for each element."""
    array = np.ascontiguousarray(array, NARROW[dtype])
    if dtype.bitwidth >= 8:
        return array.reshape(-1).view(np.uint8)
    packed = np.frombuffer(ir.tensor(array, dtype=dtype).tobytes(), np.uint8)
    return np.pad(packed, (0, array.size - packed.size))


def from_bytes(data: NDArray, dtype: ir.DataType, shape: tuple[int, ...]) -> NDArray:
    """The array of the bytes of an ONNX tensor of a NARROW type."""
    if dtype.bitwidth >= 8:
        return data.view(NARROW[dtype]).reshape(shape)
    each = 8 // dtype.bitwidth
    shifts = np.arange(each, dtype=np.uint8) * dtype.bitwidth
    codes = (data[:, None] >> shifts) & ((1 << dtype.bitwidth) - 1)
    codes = codes.reshape(-1)[: int(np.prod(shape))].astype(np.uint8)
    return codes.view(NARROW[dtype]).reshape(shape)
