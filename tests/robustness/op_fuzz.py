# SPDX-License-Identifier: Apache-2.0
"""Nodes of com.qcompile: right ones of every operator, and what may be wrong with them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import TensorProto

from qcompile.formats import FORMATS, get
from qcompile.layouts.n16k4 import chunk_columns
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import as_operand
from qcompile.numerics.resize import MODES
from qcompile.numerics.softmax import exp_table
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one

SIZES = (1, 2, 3, 5, 15, 16, 17, 33, 63, 64, 65)
INTS = (-(2**63), -(2**31) - 1, -1, 0, 1, 2, 3, 7, 9, 255, 256, 2**20, 2**31, 2**32 + 1, 2**63 - 1)
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-45, 0.5, 1.0, 2.0**29, 3e38)
TEXTS = ("", "static", "dynamic", "f32", "i32", "none", "f16", "kc/1", "rows/1", "max")
SHAPES = ((), (0,), (0, 2**31), (2**40, 0), (0, 2**31, 2**28), (0, 2**20, 2**20, 16), (1, 1, 1, 1))
DTYPES = ("float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool", "uint16")
POINTS = {"y_zero_point": 100, "y_min": 2, "y_max": 251}


@dataclasses.dataclass
class Case:
    """One node and what it is run on; a graph input is `fed`, other inputs are initializers."""

    op: str
    inputs: list[NDArray | None]
    attributes: dict[str, Any]
    fed: tuple[int, ...] = (0,)
    num_outputs: int = 1
    dims: dict[int, list[Any]] = dataclasses.field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The model, whose output types are left to the library."""
        empty = [name for name, v in self.attributes.items() if isinstance(v, list) and not v]
        given = {name: v for name, v in self.attributes.items() if name not in empty}
        outputs = [(TensorProto.FLOAT, 1)] * self.num_outputs
        model = one.build(self.op, self.inputs, given, outputs, self.fed, self.dims)
        for name in empty:
            added = onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS)
            model.graph.node[0].attribute.append(added)
        for output in model.graph.output:
            output.ClearField("type")
        return model

    def feed(self) -> dict[str, NDArray]:
        """What the graph inputs get."""
        found = ((i, self.inputs[i]) for i in self.fed if i < len(self.inputs))
        return {f"input_{i}": x for i, x in found if x is not None}


def pick(rng: Generator, items: Any) -> Any:
    """One of them."""
    return items[int(rng.integers(len(items)))]


def codes(rng: Generator, *shape: int) -> NDArray[np.uint8]:
    """Random uint8."""
    return rng.integers(0, 256, shape).astype(np.uint8)


def product(rng: Generator, weight: CodedWeight, x_shape: tuple[int, ...]) -> Case:
    """The inputs and activation attributes of a product, without those of its operator."""
    n = weight.shape[0]
    if weight.scale is not None:
        x = rng.standard_normal(x_shape).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32) if rng.random() < 0.5 else None
        kind = {"activation": "dynamic", "activation_bits": int(rng.integers(2, 9))}
        return Case("", [x, None, bias], kind | {"clip_max": 30.0})
    bias, multiplier = products.static_operands(rng, weight)
    kind = pick(rng, (products.STATIC, products.SCALED, products.DYADIC, products.SUMMED))
    pairs = as_operand(multiplier / multiplier.max() if kind is products.SUMMED else multiplier)
    operand = pairs if "requantize" in kind else multiplier
    return Case("", [codes(rng, *x_shape), None, bias, operand], dict(kind))


def weight(rng: Generator, n: int, k: int, may_have_blocks: bool = True) -> CodedWeight:
    """Of any format; one scale an output, blocks, or (for static activations) none."""
    format = get(pick(rng, list(FORMATS)))
    scale_format = pick(rng, ("none", "f16", "f32"))
    fits = format.table is None or max(map(abs, format.table)) <= 127
    if not fits:
        scale_format = "f32"
    block_size = 0
    if may_have_blocks and scale_format != "none" and rng.random() < 0.5:
        block_size = chunk_columns(format) * int(rng.integers(1, 4))
    point = not format.is_table and rng.random() < 0.5
    return one.random_weight(rng, n, k, format, block_size, scale_format, with_zero_point=point)


def matmul(rng: Generator) -> Case:
    """QMatMul."""
    w = weight(rng, pick(rng, SIZES), pick(rng, SIZES))
    case = product(rng, w, (*pick(rng, ((), (2,), (1, 9), (0,), (17,))), w.shape[1]))
    case.op, case.inputs[1] = "QMatMul", one.pack(w)
    case.attributes |= one.weight_attributes(w)
    if w.scale is not None and rng.random() < 0.3:
        case.attributes["activation"] = "f32"
    return case


def convolution(rng: Generator) -> Case:
    """QConv, dense, grouped or depthwise."""
    kernel, strides = rng.integers(1, 4, 2).tolist(), rng.integers(1, 3, 2).tolist()
    window = Window(tuple(kernel), tuple(strides), tuple(rng.integers(0, 2, 4).tolist()))
    group, is_depthwise = int(rng.integers(1, 4)), rng.random() < 0.4
    channels = pick(rng, SIZES) if is_depthwise else group * int(rng.integers(1, 9))
    group = channels if is_depthwise else group
    n = channels if is_depthwise else group * pick(rng, SIZES[:7])
    layout = "kc/1" if is_depthwise else "n16k4/1"
    w = weight(rng, n, kernel[0] * kernel[1] * channels // group, may_have_blocks=not is_depthwise)
    case = product(rng, w, (int(rng.integers(0, 3)), *rng.integers(1, 9, 2).tolist(), channels))
    case.op, case.inputs[1] = "QConv", one.pack(w, layout, 1 if is_depthwise else group)
    case.attributes |= one.weight_attributes(w, layout) | one.window_attributes(window, group)
    return case


def gather(rng: Generator) -> Case:
    """QGather."""
    w, layout = weight(rng, pick(rng, SIZES), pick(rng, SIZES)), pick(rng, ("n16k4/1", "rows/1"))
    n = w.shape[0]
    indices = rng.integers(-n, n, pick(rng, ((), (3,), (2, 2), (0,)))).astype(np.int64)
    scale = rng.random(n).astype(np.float32) if w.scale is None else None
    inputs = [np.asarray(indices), one.pack(w, layout), scale]
    return Case("QGather", inputs, one.weight_attributes(w, layout))


def elementwise(rng: Generator) -> Case:
    """QAdd and QMul of shapes that broadcast."""
    shapes = [((2, 3, 17), (2, 3, 17)), ((4, 64), (64,)), ((3, 1, 5), (7, 5)), ((0, 4), (1, 4))]
    a, b = pick(rng, [*shapes, ((3, 4), (3, 1)), ((), (6,))])
    given = {"a_zero_point": 128, "b_zero_point": 3, **POINTS}
    given["requantize"] = pick(rng, ("f32", "dyadic"))
    is_sum = rng.random() < 0.5
    given |= {"a_multiplier": 0.5, "b_multiplier": 0.3} if is_sum else {"multiplier": 0.0125}
    return Case("QAdd" if is_sum else "QMul", [codes(rng, *a), codes(rng, *b)], given, (0, 1))


def lut(rng: Generator) -> Case:
    """QLut."""
    return Case(
        "QLut", [codes(rng, *pick(rng, ((), (0, 3), (65,), (2, 129)))), codes(rng, 256)], {}
    )


def resize(rng: Generator) -> Case:
    """QResize."""
    to: dict[str, Any] = {"sizes": rng.integers(1, 20, 2).tolist()}
    if rng.random() < 0.5:
        to = {"scales": rng.uniform(0.1, 3, 2).tolist()}
    x = codes(rng, int(rng.integers(0, 3)), *rng.integers(1, 9, 2).tolist(), pick(rng, SIZES))
    given = {"mode": pick(rng, MODES), "multiplier": 1.13, "x_zero_point": 117}
    return Case("QResize", [x], to | given | POINTS)


def pool(rng: Generator) -> Case:
    """QPool."""
    pairs = {k: rng.integers(1, 4, 2).tolist() for k in ("kernel_shape", "strides", "dilations")}
    given = {"mode": pick(rng, ("max", "average")), "multiplier": 0.83, "x_zero_point": 131}
    pads = [int(rng.integers(k)) for k in pairs["kernel_shape"] * 2]
    given |= pairs | {"pads": pads, "ceil_mode": int(rng.integers(2))}
    given["requantize"] = pick(rng, ("f32", "dyadic"))
    given["count_include_pad"] = 0 if given["ceil_mode"] else int(rng.integers(2))
    x = codes(rng, int(rng.integers(0, 3)), *rng.integers(1, 12, 2).tolist(), pick(rng, SIZES))
    return Case("QPool", [x], given | POINTS)


def rows(rng: Generator) -> Case:
    """QLayerNorm and QSoftmax."""
    k = pick(rng, SIZES)
    x = codes(rng, *pick(rng, ((3,), (0,), (2, 5))), k)
    if rng.random() < 0.5:
        table = exp_table(pick(rng, (0.037, 1e-4, 5.0)))
        return Case("QSoftmax", [x, table], {"multiplier": 255.0, **POINTS})
    gamma, beta = rng.normal(0, 30, (2, k)).astype(np.float32)
    given = {"mode": pick(rng, ("layer", "rms")), "epsilon": 0.02, "x_zero_point": 131, **POINTS}
    return Case("QLayerNorm", [x, gamma, beta], given)


def coding(rng: Generator) -> Case:
    """Quantize and Dequantize."""
    format = get(pick(rng, list(FORMATS)))
    is_dynamic = format.name in ("int2", "int5", "int8") and rng.random() < 0.9
    granularity = pick(rng, ("row", "sample") if is_dynamic else ("tensor", "axis", "block"))
    given: dict[str, Any] = {"bits": format.bits, "granularity": granularity}
    given |= {"is_signed": int(format.is_signed and not format.is_table)}
    given |= {"axis": 1, "block_size": 3 if granularity == "block" else 0}
    if format.is_table:
        given["table"] = [float(v) for v in format.values]
    scale: NDArray | None = None
    if granularity in ("tensor", "axis", "block"):
        shape = {"tensor": (), "axis": (10,), "block": (3, 4, 4)}[granularity]
        scale = np.asarray(rng.uniform(0.5, 1.5, shape), np.float32)
    if scale is not None and rng.random() < 0.5:
        stored = codes(rng, 3, 10, 4).view(np.int8)
        return Case("Dequantize", [stored, scale, None], given)
    x = rng.standard_normal((3, 10, 4)).astype(np.float32)
    return Case("Quantize", [x, scale, None], given, num_outputs=2)


MAKERS: tuple[Callable[[Generator], Case], ...] = (
    *(matmul, matmul, convolution, convolution, gather, elementwise),
    *(lut, resize, pool, rows, coding),
)


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


def make(seed: int) -> tuple[Case, int]:
    """The case of a number, and how much is wrong with it (0: it has to run)."""
    rng = np.random.default_rng(seed)
    case = pick(rng, MAKERS)(rng)
    num_changes = int(rng.integers(0, 4))
    for _ in range(num_changes):
        pick(rng, CHANGES)(rng, case)
    return case, num_changes
