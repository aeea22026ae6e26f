# SPDX-License-Identifier: Apache-2.0
"""Random nodes of com.qcompile, right ones of every operator."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from qcompile.formats import FORMATS, Format, get
from qcompile.formats.bitmod import BITMOD
from qcompile.formats.palette import PALETTES
from qcompile.layouts.n16k4 import chunk_columns
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import as_operand
from qcompile.numerics.resize import MODES
from qcompile.numerics.softmax import exp_table
from qcompile.numerics.softmax_formats import NAMES as SOFTMAX_FORMATS
from qcompile.numerics.softmax_formats import SoftmaxFormat
from qcompile.numerics.weight import CodedWeight
from tests.robustness.op_case import Case, pick
from tests.robustness.op_damage import damage
from tests.runtime_ops import products
from tests.runtime_ops import single_op as one

SIZES = (1, 2, 3, 5, 15, 16, 17, 33, 63, 64, 65)
SCALES = ("none", "f16", "f32", "bf16", "e8m0", "ue4m3")
POINTS = {"y_zero_point": 100, "y_min": 2, "y_max": 251}


def codes(rng: Generator, *shape: int) -> NDArray[np.uint8]:
    """Random uint8."""
    return rng.integers(0, 256, shape).astype(np.uint8)


def reals(rng: Generator, *shape: int) -> NDArray[np.float32]:
    """Normal float32."""
    return rng.standard_normal(shape).astype(np.float32)


def product(rng: Generator, weight: CodedWeight, x_shape: tuple[int, ...]) -> Case:
    """The inputs and activation attributes of a product, without those of its operator."""
    n = weight.shape[0]
    if weight.scale is not None:
        x = rng.standard_normal(x_shape).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32) if rng.random() < 0.5 else None
        bits = int(rng.integers(2, 9))
        largest = 2 ** (bits - 1) - 1
        reach = float(largest * rng.uniform(1, 8)) if rng.random() < 0.3 else None
        kind = products.dynamic(bits, reach)
        return Case("", [x, None, bias], kind | {"clip_max": 30.0})
    bias, multiplier = products.static_operands(rng, weight)
    kind = pick(rng, (products.STATIC, products.SCALED, products.DYADIC, products.SUMMED))
    operand = multiplier
    if "requantize" in kind:  # dyadic multipliers have no sign
        ratio = np.abs(multiplier)
        operand = as_operand(ratio / ratio.max() if kind is products.SUMMED else ratio)
    return Case("", [codes(rng, *x_shape), None, bias, operand], dict(kind))


def weight(rng: Generator, n: int, k: int, may_have_blocks: bool = True) -> CodedWeight:
    """Of any format; one scale an output, blocks, or (for static activations) none."""
    format = weight_format(rng)
    scale_format = pick(rng, SCALES)
    block_size = 0
    if may_have_blocks and scale_format != "none" and rng.random() < 0.5:
        block_size = chunk_columns(format) * int(rng.integers(1, 4))
    point = not format.is_table and rng.random() < 0.5
    factor = 0.25 if scale_format != "none" and rng.random() < 0.3 else 1.0
    return one.random_weight(
        *(rng, n, k, format, block_size, scale_format), with_zero_point=point, tensor_scale=factor
    )


def weight_format(rng: Generator) -> Format:
    """A known format, one with special values, or any table of int16."""
    if rng.random() < 0.7:
        return get(pick(rng, list(FORMATS))).in_int16()  # any product takes it
    if rng.random() < 0.3:
        return pick(rng, BITMOD)
    bits, largest = int(rng.integers(1, 9)), pick(rng, (100, 127, 128, 32767))
    values = rng.integers(-largest - 1, largest + 1, 2**bits)
    return Format("any", bits, True, tuple(values.tolist()))


def denser(rng: Generator, w: CodedWeight) -> tuple[CodedWeight, str]:
    """A weight and a layout: where it can, one that is smaller than n16k4."""
    if w.format.name == "balanced2" and w.shape[1] % 2 and w.block_size == 0:
        return replace(w, codes=np.minimum(w.codes, 4)), "n16k4q/1"
    has_zero = w.format.zero_code is not None and not w.format.specials
    if w.format.bits in (3, 4) and has_zero and rng.random() < 0.5:
        return one.sparse(rng, w), "n16k4s/1"
    return w, "n16k4/1"


def palettized(rng: Generator) -> CodedWeight:
    """A weight whose blocks have levels of their own, for float activations."""
    format, k = pick(rng, list(PALETTES.values())), pick(rng, SIZES)
    block_size = chunk_columns(format) * int(rng.integers(0, 3))
    return one.random_weight(
        rng, pick(rng, SIZES), k, format, block_size, pick(rng, ("f16", "f32"))
    )


def matmul(rng: Generator) -> Case:
    """QMatMul."""
    if rng.random() < 0.1:
        w, layout = palettized(rng), "n16k4/1"
        x = rng.standard_normal((int(rng.integers(0, 12)), w.shape[1])).astype(np.float32)
        given = one.weight_attributes(w) | {"activation": "f32"}
        return Case("QMatMul", [x, one.pack(w)], given)
    w, layout = denser(rng, weight(rng, pick(rng, SIZES), pick(rng, SIZES)))
    case = product(rng, w, (*pick(rng, ((), (2,), (1, 9), (0,), (17,))), w.shape[1]))
    case.op, case.inputs[1] = "QMatMul", one.pack(w, layout)
    case.attributes |= one.weight_attributes(w, layout)
    if w.scale is not None and rng.random() < 0.3:
        case.attributes["activation"] = "f32"
    if w.scale is not None and w.shape[1] > 1 and rng.random() < 0.3:
        case.attributes |= rotation(rng, w.shape[1])
    return case


def rotation(rng: Generator, k: int) -> dict[str, int]:
    """The attributes of rows that are rotated."""
    block = 1 << int(rng.integers(1, k.bit_length()))
    return {"hadamard": block, "hadamard_seed": int(rng.integers(1 << 62))}


def hadamard(rng: Generator) -> Case:
    """Hadamard."""
    k = max(2, pick(rng, SIZES))
    x = rng.standard_normal((*pick(rng, ((), (2,), (0,), (17,))), k)).astype(np.float32)
    return Case("Hadamard", [x], {"K": k, **rotation(rng, k)})


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
    w, layout = denser(rng, weight(rng, pick(rng, SIZES), pick(rng, SIZES)))
    layout = pick(rng, (layout, "rows/1"))
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


def attention(rng: Generator) -> Case:
    """QAttention and QDynamicAttention, with heads shared, operands transposed, a mask."""
    lead, of_floats = pick(rng, ((), (3,), (2, 2))), rng.random() < 0.5
    rows, depth, keys, width = (int(pick(rng, SIZES)) for _ in range(4))
    few = tuple(pick(rng, (1, size)) for size in lead)  # heads that q shares
    shapes = [(*lead, rows, depth), (*few, depth, keys), (*few, keys, width)]
    made = reals if of_floats else codes
    inputs: list[NDArray | None] = [made(rng, *shape) for shape in shapes]
    given: dict[str, Any] = {"multiplier": float(pick(rng, (1e-4, 0.02, -1.0)))}
    if not of_floats:
        given |= {f"{n}_zero_point": int(rng.integers(256)) for n in "qkv"}
        given |= {"y_multiplier": 0.9, **POINTS, **softmax_attributes(rng)}
    for i, name in enumerate("qkv"):
        if rng.random() < 0.6:
            perm = rng.permutation(len(shapes[i]))
            inputs[i] = np.ascontiguousarray(made(rng, *shapes[i]).transpose(np.argsort(perm)))
            given[f"{name}_perm"] = perm.tolist()
            if rng.random() < 0.3:
                inputs[i] = np.stack([made(rng, *inputs[i].shape), inputs[i]])
                given |= {f"{name}_perm": (perm + 1).tolist(), f"{name}_index": [1]}
    if rng.random() < 0.3:
        given["y_perm"] = rng.permutation(len(lead) + 2).tolist()
    if rng.random() < 0.5:
        shape = [pick(rng, (1, size)) for size in (*lead, rows, keys)][int(rng.integers(3)) :]
        inputs.append(rng.choice(np.float32([0, -1, -1e4, -np.inf]), shape))
    op = "QDynamicAttention" if of_floats else "QAttention"
    return Case(op, inputs, given, tuple(range(len(inputs))))


def softmax_attributes(rng: Generator) -> dict[str, Any]:
    """Of QAttention: none, or a format of its weights."""
    if rng.random() < 0.5:
        return {}
    form = SoftmaxFormat.parse(pick(rng, SOFTMAX_FORMATS))
    shift = pick(rng, list(form.shifts))
    return {"softmax_format": form.name} | ({"softmax_shift": shift} if shift else {})


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
    point = None
    if format.specials and scale is not None:
        given["special_code"] = format.special_code
        point = np.asarray(rng.choice(np.array(format.specials), scale.shape), np.int8)
    if scale is not None and rng.random() < 0.5:
        stored = codes(rng, 3, 10, 4).view(np.int8)
        return Case("Dequantize", [stored, scale, point], given)
    x = rng.standard_normal((3, 10, 4)).astype(np.float32)
    return Case("Quantize", [x, scale, point], given, num_outputs=2)


MAKERS: tuple[Callable[[Generator], Case], ...] = (
    *(matmul, matmul, convolution, convolution, gather, elementwise),
    *(lut, resize, pool, rows, attention, coding, hadamard),
)


def make(seed: int) -> tuple[Case, int]:
    """The case of a number, and how much is wrong with it (0: it has to run)."""
    rng = np.random.default_rng(seed)
    case = pick(rng, MAKERS)(rng)
    num_changes = int(rng.integers(0, 4))
    for _ in range(num_changes):
        damage(rng, case)
    return case, num_changes
