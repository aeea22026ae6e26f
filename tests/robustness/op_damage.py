# SPDX-License-Identifier: Apache-2.0
"""What may be wrong with a node: attributes, inputs, declarations."""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tests.robustness.op_case import Case, pick

INTS = (-(2**63), -(2**31) - 1, -1, 0, 1, 2, 3, 7, 9, 255, 256, 2**20, 2**31, 2**32 + 1, 2**63 - 1)
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-45, 0.5, 1.0, 2.0**29, 3e38)
TEXTS = ("", "static", "dynamic", "f32", "i32", "none", "f16", "kc/1", "rows/1", "max")
SHAPES = ((), (0,), (0, 2**31), (2**40, 0), (0, 2**31, 2**28), (0, 2**20, 2**20, 16), (1, 1, 1, 1))
DTYPES = ("float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool", "uint16")


def wrong_value(rng: Generator, value: Any) -> Any:
    """A value of the same kind, or of another."""
    if isinstance(value, list) and rng.random() < 0.8:
        changed = list(value)
        if changed and rng.random() < 0.7:
            at = int(rng.integers(len(changed)))
            changed[at] = pick(rng, INTS if isinstance(changed[at], int) else FLOATS)
            return changed
        return pick(rng, (changed[:-1], changed * 2, changed * 500, []))
    kinds = {int: INTS, float: FLOATS, str: TEXTS}
    if type(value) in kinds and rng.random() < 0.8:
        return pick(rng, kinds[type(value)])
    return pick(rng, (1, 1.5, "text", [1, 2], [0.5], b"\xff\x00"))


def change_attribute(rng: Generator, case: Case) -> None:
    """One attribute is absent, extreme, or of another type."""
    if not case.attributes:
        case.attributes["abi"] = pick(rng, INTS)
        return
    name = pick(rng, list(case.attributes))
    if rng.random() < 0.15:
        del case.attributes[name]
    else:
        case.attributes[name] = wrong_value(rng, case.attributes[name])


def reshaped(rng: Generator, x: NDArray) -> NDArray:
    """x with another shape: an axis more or less, shorter, longer, empty, or anything."""
    way = int(rng.integers(6))
    if way == 0:
        return x[None]
    if way == 1 or not x.ndim:
        return np.zeros(pick(rng, SHAPES), x.dtype)
    axis = int(rng.integers(x.ndim))
    if way == 2 and x.shape[axis]:
        return x.take(0, axis)
    if way == 3:
        return np.delete(x, slice(0, 1), axis)
    return np.concatenate([x, x], axis) if way == 4 and x.size else x.reshape(-1)


def change_input(rng: Generator, case: Case) -> None:
    """One input is absent, or of another type, shape, content or origin."""
    i = int(rng.integers(len(case.inputs)))
    x, way = case.inputs[i], int(rng.integers(6))
    if x is None or way == 0:
        case.inputs[i] = None if x is not None else np.zeros(pick(rng, SHAPES[:2]), np.float32)
    elif way == 1:
        case.inputs[i] = x.astype(pick(rng, DTYPES))
    elif way == 2:
        fill = pick(rng, FLOATS) if x.dtype.kind == "f" else pick(rng, INTS)
        with np.errstate(all="ignore"):
            case.inputs[i] = np.full(x.shape, np.array(fill).astype(x.dtype))
    elif way == 3:
        case.fed = tuple(set(case.fed) ^ {i})
    else:
        case.inputs[i] = reshaped(rng, x)


def change_declaration(rng: Generator, case: Case) -> None:
    """A graph input is declared with other sizes than it has; or the node has one input more."""
    if not case.fed or rng.random() < 0.3:
        case.inputs.append(np.zeros(pick(rng, SHAPES[:2]), np.float32))
        return
    i = pick(rng, case.fed)
    x = case.inputs[i] if i < len(case.inputs) else None
    if x is not None:
        sizes = ("n", None, 0, 1, 2**31, 2**62, 2**63 - 1)
        case.dims[i] = [d if rng.random() < 0.4 else pick(rng, sizes) for d in x.shape]


CHANGES = (change_attribute, change_attribute, change_input, change_declaration)


def damage(rng: Generator, case: Case) -> None:
    """One of them."""
    pick(rng, CHANGES)(rng, case)
