# SPDX-License-Identifier: Apache-2.0
"""What manifest.json holds: the places that are read, and the type of each.

A shape is a type, a function that accepts, [shape] of a list's elements, a dict (a key with ? may
be absent, * is every key), or a tuple of shapes of which one fits.
"""

import math
from typing import Any


def _is_number(value: Any) -> bool:
    """Infinities and NaN are words in the file; true is no number."""
    if isinstance(value, str):
        return value in ("inf", "-inf", "nan")
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and -1e300 < value < 1e300


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _is_axis(value: Any) -> bool:
    return _is_count(value) and value < 3


def _is_kind(value: Any) -> bool:
    return value in ("uint8", "int8", "int32")


def _is_finite(value: Any) -> bool:
    return _is_number(value) and not isinstance(value, str) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    """A node and its dB."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return isinstance(value[0], str) and _is_number(value[1])


def _is_empty(value: Any) -> bool:
    return value == {}


_NONE = type(None)
_WORD = (str, _NONE)
_NODE = {
    **{"node": str, "op": str, "weight_tensor": str, "elements": _is_count, "reason?": _WORD},
    **{"weight": _WORD, "activation": _WORD, "kernel": _WORD, "layout?": _WORD},
    "packed_bytes?": _is_count,
}
_BORDER = {
    **{"name": str, "dims": [_is_count], "order": [_is_axis], "map": [_is_count]},
    **{"kind": _is_kind, "scale": _is_finite, "zero_point": _is_whole, "limits": [_is_whole]},
}
NETWORK = {
    **{"library": str, "device": str, "batch": _is_count, "runtime": [str], "instructions": [str]},
    **{"minimum_driver": (_NONE, _is_count), "input": _BORDER, "output": _BORDER},
    "kernels": [{"node": str, "instruction": str, "computes": [str]}],
}
_SPEED = {"float_ms": _is_finite, "compiled_ms": _is_finite, "ratio": _is_finite}
_FIGURES = (_NONE, {"sqnr_db": _is_number, "kurtosis": _is_number, "crest": _is_number})
_ROTATION = {
    **{"value": str, "kind": str, "readers": [str], "transform": _WORD, "size": _is_count},
    **{"seed": (_NONE, _is_count), "is_applied": bool, "is_online": bool, "reason": str},
    **{"before": _FIGURES, "after": _FIGURES},
}
SHAPE = {
    "content": {
        "source": {"file": str, "sha256": str, "bytes": _is_count},
        **{"target": str, "preset": str, "notes": [str], "coverage": _is_finite},
        "onnx": (
            _NONE,
            {"opset": _is_count, "ir_version": _is_count, "oldest_onnxruntime": str},
        ),
        "network?": (_NONE, NETWORK),
        "library": (_NONE, {"file": str, "abi": _is_count}),
        "files": {"*": {"bytes": _is_count, "sha256": str}},
        "nodes": [_NODE],
        "float_nodes": {"*": str},
        **{"activation_ranges?": _WORD, "rotations?": [_ROTATION], "softmax_formats?": {"*": str}},
        "provenance?": {"*": {"*": {"*": str}}},
    },
    "measured": {
        **{"sqnr_db?": (_NONE, _is_number), "synthetic_data?": bool, "skipped?": [str]},
        "worst_nodes?": [_is_pair],
        "metric?": (_is_empty, {"float": _is_finite, "compiled": _is_finite}),
        "speed?": (_is_empty, _SPEED),
        "checks?": [{"rung": str}],
    },
}


def mismatch(value: Any, shape: Any = SHAPE, place: str = "") -> str | None:
    """The first place whose value has another shape, or None.

    >>> mismatch({"files": [{"bytes": "x"}]}, {"files": [{"bytes": int}]})
    'files[0].bytes is "x"'
    """
    if isinstance(shape, tuple):
        found = [mismatch(value, each, place) for each in shape]
        return None if None in found else found[-1]
    if isinstance(shape, dict) and isinstance(value, dict):
        return _mismatch_in(value, shape, place)
    if isinstance(shape, list) and isinstance(value, list):
        parts = (mismatch(v, shape[0], f"{place}[{i}]") for i, v in enumerate(value))
        return next((p for p in parts if p is not None), None)
    accepts = shape if callable(shape) and not isinstance(shape, type) else None
    fits = accepts(value) if accepts else isinstance(value, shape if callable(shape) else ())
    return None if fits else f"{place} is {_shown(value)}"


def _mismatch_in(value: dict[str, Any], shape: dict[str, Any], place: str) -> str | None:
    for key, inner in shape.items():
        name = key.removesuffix("?")
        for found in value if key == "*" else [name]:
            where = f"{place}.{found}".lstrip(".")
            if found not in value:
                if name == key:
                    return f"it has no {where}"
            elif problem := mismatch(value[found], inner, where):
                return problem
    return None


def _shown(value: Any) -> str:
    return f'"{value[:40]}"' if isinstance(value, str) else repr(value)[:40]
