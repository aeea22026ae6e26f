# SPDX-License-Identifier: Apache-2.0
"""Sessions that take and give arrays of every element type; ONNX Runtime's Python lacks some."""

import ctypes
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.element_types import NARROW, from_bytes, to_bytes, type_named


class ArraySession(ort.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
    """ONNX Runtime's session; bfloat16, float8, 4 and 2 bits are arrays of ml_dtypes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        edges = {v.name: type_named(v.type) for v in (*self.get_inputs(), *self.get_outputs())}
        self._narrow = {n: t.dtype for n, t in edges.items() if t is not None and t.dtype in NARROW}

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As ONNX Runtime's."""
        if not self._narrow:
            return super().run(output_names, input_feed, run_options)
        values = {name: self._value(name, x) for name, x in input_feed.items()}
        return [_array(v) for v in self.run_with_ort_values(output_names, values, run_options)]

    def _value(self, name: str, array: Any) -> ort.OrtValue:
        """An OrtValue that reads the array's memory, or a copy that it holds."""
        array, dtype = np.asarray(array), self._narrow.get(name)
        if dtype is None:
            return ort.OrtValue.ortvalue_from_numpy(array)
        # ONNX Runtime reads the size from the array and the type from the number.
        item = np.int16 if dtype.bitwidth == 16 else np.int8
        data = to_bytes(array, dtype).view(item).reshape(array.shape)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(data, int(dtype))


def _array(value: ort.OrtValue) -> NDArray:
    dtype, shape = ir.DataType(value.element_type()), tuple(value.shape())
    if dtype not in NARROW:
        return np.asarray(value.numpy())
    size = -(-int(np.prod(shape)) * dtype.bitwidth // 8)
    held = ctypes.string_at(value.data_ptr(), size) if size else b""
    return from_bytes(np.frombuffer(bytearray(held), np.uint8), dtype, shape)
