# SPDX-License-Identifier: Apache-2.0
"""Convolution and dense on a CPU by TVM's LLVM: direct, one code a byte, weights in panels of 16.

Codes enter as unsigned bytes: signed ones are shifted by 128 while they are padded, and the bias
takes the shift back with the zero point. Weights of 4 bits lie two in a byte and are decoded panel
by panel. Sums of a tile stay in registers over the whole reduction; the epilogue follows at once.
"""

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import te, tirx
from tvm.s_tir import Schedule

from qcompile.integer_graph import Conv
from qcompile.targets.tvm.channels import BIAS, channel_table
from qcompile.targets.tvm.llvm_dot import LANES, Dot, register, sums
from qcompile.targets.tvm.llvm_epilogue import finish
from qcompile.targets.tvm.plan import code_kind

BYTE_SHIFT = 128


def panels(N: int) -> int:
    """Groups of 16 outputs."""
    return -(-N // LANES)


def chunks(C: int, dot: Dot) -> int:
    """Groups of codes that one instruction reduces."""
    return -(-C // dot.depth)


def is_packed(conv: Conv, dot: Dot) -> bool:
    """Whether two weights share a byte."""
    return conv.weight_bits == 4 and dot.depth > 1


def pack_weight(conv: Conv, dot: Dot) -> NDArray:
    """[N/16, kh, kw, C/depth, 16, depth] int8, or uint8 with half the depth at 4 bits."""
    N, kh, kw, C = conv.weight.shape
    count, depth = chunks(C, dot), dot.depth
    padded = np.zeros((panels(N) * LANES, kh, kw, count * depth), np.int8)
    padded[:N, :, :, :C] = conv.weight
    tiled = padded.reshape(panels(N), LANES, kh, kw, count, depth).transpose(0, 2, 3, 4, 1, 5)
    if not is_packed(conv, dot):
        return np.ascontiguousarray(tiled)
    nibbles = tiled.astype(np.uint8) & 15
    return np.ascontiguousarray(nibbles[..., 0::2] | (nibbles[..., 1::2] << 4))


def table(conv: Conv) -> NDArray[np.int32]:
    """Multipliers, exponents and folded biases; the bias includes the shift of signed codes."""
    N = len(conv.weight)
    bias = conv.folded_bias
    if conv.x.is_signed:
        flat = conv.weight.reshape(N, -1).astype(np.int64)
        bias = bias - BYTE_SHIFT * flat.sum(axis=1)
    return channel_table(conv.scale, bias, N, panels(N) * LANES)


def conv_function(conv: Conv, batch: int, dot: Dot, name: str) -> Any:
    """The scheduled function (x, weight, channels, [residual,] y)."""
    register()
    N, padded_n = conv.y.shape[2], panels(conv.y.shape[2]) * LANES
    x = te.placeholder((batch, *conv.x.shape), code_kind(conv.x), "x")
    packed = pack_weight(conv, dot)
    weight = te.placeholder(packed.shape, packed.dtype.name, "weight")
    channels = te.placeholder((3, padded_n), "int32", "channels")
    decoded = _decode(weight, dot) if is_packed(conv, dot) else weight
    shape = (batch, *conv.y.shape[:2], panels(N), LANES)
    total = sums(_pad(x, conv, dot), decoded, shape, conv.window.strides)
    parameters = [x, weight, channels]
    residual: Any = None
    if conv.residual is not None:
        other = conv.residual.other
        residual = te.placeholder((batch, *other.shape), code_kind(other), "residual")
        parameters.append(residual)

    def one(b: Any, i: Any, j: Any, n: Any) -> Any:
        value = total[b, i, j, n // LANES, n % LANES] + channels[BIAS, n]
        code = None if conv.residual is None else residual[b, i, j, n]
        return finish(conv, value, channels, n, code)

    y = te.compute((batch, *conv.y.shape), one, name="y")
    function = te.create_prim_func([*parameters, y]).with_attr("global_symbol", name)
    return _schedule(function, conv, dot, name)


def _pad(x: Any, conv: Conv, dot: Dot) -> Any:
    """The map with its border of zero points, as unsigned bytes, whole chunks of channels."""
    (top, left, bottom, right), (H, W, C) = conv.window.pads, conv.x.shape
    shift = BYTE_SHIFT if conv.x.is_signed else 0
    border = tirx.const(conv.x.zero_point + shift, "uint8")
    batch, width = int(x.shape[0]), chunks(C, dot) * dot.depth

    def one(b: Any, i: Any, j: Any, c: Any) -> Any:
        inside = tirx.all(i >= top, i < top + H, j >= left, j < left + W, c < C)
        code = (x[b, i - top, j - left, c].astype("int32") + shift).astype("uint8")
        return tirx.if_then_else(inside, code, border)

    shape = (batch, H + top + bottom, W + left + right, width)
    return te.compute(shape, one, name="padded")


def _decode(weight: Any, dot: Dot) -> Any:
    """Signed bytes of two codes in a byte, the first in the low half."""
    shape = [int(extent) for extent in weight.shape]

    def one(*index: Any) -> Any:
        *outer, f = index
        byte = weight[(*outer, f // 2)].astype("int32")
        nibble = tirx.bitwise_and(tirx.shift_right(byte, f % 2 * 4), tirx.const(15, "int32"))
        return (tirx.bitwise_xor(nibble, tirx.const(8, "int32")) - 8).astype("int8")

    return te.compute((*shape[:-1], dot.depth), one, name="decoded")


def _schedule(function: Any, conv: Conv, dot: Dot, name: str) -> Any:
    s = Schedule(tvm.IRModule({name: function}))
    s.work_on(name)
    block, out = s.get_sblock("sums"), s.get_sblock("y")
    b, i, j, no, ni, kh, kw, k, f = s.get_loops(block)
    columns = largest_divisor(conv.y.shape[1], min(4, dot.most_tiles))
    groups = largest_divisor(panels(conv.y.shape[2]), max(dot.most_tiles // columns, 1))
    jo, ji = s.split(j, [None, columns])
    po, pi = s.split(no, [None, groups])
    s.reorder(po, b, i, jo, kh, kw, k, ji, pi, ni, f)
    if is_packed(conv, dot):
        decoded = s.get_sblock("decoded")
        s.compute_at(decoded, po)
    s.reverse_compute_at(out, jo)
    if conv.y.shape[2] > 1:  # TVM leaves out loops of 1: the last one would be another
        s.vectorize(s.get_loops(out)[-1])
    rows = s.fuse(b, i)
    s.parallel(rows)
    if dot.intrinsic is None:
        s.reorder(f, ni)
        s.vectorize(ni)
    start = s.decompose_reduction(block, kh)
    s.vectorize(s.get_loops(start)[-1])
    s.unroll(ji)
    s.unroll(pi)
    if dot.intrinsic is not None:
        s.tensorize(ni, dot.intrinsic)
    s.parallel(s.fuse(*s.get_loops(s.get_sblock("padded"))[:2]))
    return s.mod[name]


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor up to a limit.

    >>> largest_divisor(14, 4), largest_divisor(7, 4), largest_divisor(12, 6)
    (2, 1, 6)
    """
    return max(d for d in range(1, most + 1) if number % d == 0)
