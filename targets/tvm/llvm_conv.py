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
from qcompile.targets.tvm.llvm_dot import LANES, Dot, Rows, place, register, sums
from qcompile.targets.tvm.llvm_epilogue import Scaling, finish, scaling
from qcompile.targets.tvm.plan import code_kind

BYTE_SHIFT = 128
LEAST_TASKS = 16  # of a layer, for up to as many threads


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
    """[N/16, kh, kw, C/depth, 16, depth] int8, or uint8 with half the chunks at 4 bits.

    A byte then holds a code of an even chunk in its low half, and of the next one in its high half.
    """
    N, kh, kw, C = conv.weight.shape
    half = is_packed(conv, dot)
    count, depth = chunks(C, dot), dot.depth
    stored = count + count % 2 if half else count
    padded = np.zeros((panels(N) * LANES, kh, kw, stored * depth), np.int8)
    padded[:N, :, :, :C] = conv.weight
    tiled = padded.reshape(panels(N), LANES, kh, kw, stored, depth).transpose(0, 2, 3, 4, 1, 5)
    if not half:
        return np.ascontiguousarray(tiled)
    nibbles = tiled.astype(np.uint8) & 15
    return np.ascontiguousarray(nibbles[:, :, :, 0::2] | (nibbles[:, :, :, 1::2] << 4))


def epilogue(conv: Conv) -> Scaling:
    """The bias includes the zero point, and the shift of signed codes."""
    flat = conv.weight.reshape(len(conv.weight), -1).astype(np.int64)
    shift = BYTE_SHIFT if conv.x.is_signed else 0
    bias = conv.folded_bias - shift * flat.sum(axis=1)
    largest = max(abs(code) for code in conv.x.range)
    bound = np.abs(flat).sum(axis=1) * largest + np.abs(conv.folded_bias)
    return scaling(conv.scale, bias, bound, panels(len(conv.weight)) * LANES)


def conv_function(conv: Conv, batch: int, dot: Dot, name: str) -> Any:
    """The scheduled function (x, weight, channels, [residual,] y [M, N])."""
    register()
    N, M = conv.y.shape[2], num_rows(conv, batch)
    x = te.placeholder((batch, *conv.x.shape), code_kind(conv.x), "x")
    packed = pack_weight(conv, dot)
    weight = te.placeholder(packed.shape, packed.dtype.name, "weight")
    after = epilogue(conv)
    channels = te.placeholder(after.table.shape, "int64", "channels")
    decoded = _decode(weight, chunks(conv.x.shape[2], dot)) if is_packed(conv, dot) else weight
    rows = tile_rows(M, dot)
    total = sums(_pad(x, conv, dot), decoded, Rows(M, rows, conv))
    parameters = [x, weight, channels]
    residual: Any = None
    if conv.residual is not None:
        other = conv.residual.other
        residual = te.placeholder((batch, *other.shape), code_kind(other), "residual")
        parameters.append(residual)

    def one(m: Any, n: Any) -> Any:
        value = after.apply(total[n // LANES, m, n % LANES], channels, n)
        code = None if conv.residual is None else residual[(*place(m, conv.y.shape), n)]
        return finish(conv, value, after.kind, code)

    y = te.compute((M, N), one, name="y")
    function = te.create_prim_func([*parameters, y]).with_attr("global_symbol", name)
    return _schedule(function, conv, dot, rows, name)


def num_rows(conv: Conv, batch: int) -> int:
    """M: output pixels of all samples."""
    return batch * conv.y.shape[0] * conv.y.shape[1]


def tile_rows(M: int, dot: Dot) -> int:
    """Rows of a tile: a row costs `panels` products, a tile one more for its weights."""
    most = min(M, dot.rows)
    return min(range(1, most + 1), key=lambda r: (-(-M // r) * (r * dot.row_cost + 1), -r))


def _pad(x: Any, conv: Conv, dot: Dot) -> Any:
    """The map with its border of zero points, not negative, whole chunks of channels."""
    (top, left, bottom, right), (H, W, C) = conv.window.pads, conv.x.shape
    shift = BYTE_SHIFT if conv.x.is_signed else 0
    border = tirx.const(conv.x.zero_point + shift, dot.operand)
    batch, width = int(x.shape[0]), chunks(C, dot) * dot.depth

    def one(b: Any, i: Any, j: Any, c: Any) -> Any:
        limits = [(i >= top, top), (i < top + H, bottom), (j >= left, left), (j < left + W, right)]
        inside = [limit for limit, is_there in limits if is_there]
        if width > C:
            inside.append(c < C)
        wide = x[b, i - top, j - left, c].astype("int32") + shift
        code = wide.astype(dot.operand)
        return tirx.if_then_else(tirx.all(*inside), code, border) if inside else code

    shape = (batch, H + top + bottom, W + left + right, width)
    return te.compute(shape, one, name="padded")


def _decode(weight: Any, count: int) -> Any:
    """Signed bytes of `count` chunks, two of which share bytes."""
    shape = [int(extent) for extent in weight.shape]
    low, eight = tirx.const(15, "uint8"), tirx.const(8, "uint8")

    def one(no: Any, i: Any, j: Any, k: Any, n: Any, f: Any) -> Any:
        byte = weight[no, i, j, k // 2, n, f]
        nibble = tirx.bitwise_and(tirx.shift_right(byte, (k % 2 * 4).astype("uint8")), low)
        return tirx.bitwise_xor(nibble, eight).astype("int8") - tirx.const(8, "int8")

    return te.compute((*shape[:3], count, *shape[4:]), one, name="decoded")


def _schedule(function: Any, conv: Conv, dot: Dot, rows: int, name: str) -> Any:
    s = Schedule(tvm.IRModule({name: function}))
    s.work_on(name)
    block, out = s.get_sblock("sums"), s.get_sblock("y")
    no, m, ni, kh, kw, k, f = s.get_loops(block)
    groups = largest_divisor(panels(conv.y.shape[2]), dot.panels)
    po, pi = s.split(no, [None, groups])
    mo, mi = s.split(m, [None, rows])
    tiles = int(s.get(mo).extent)
    # A task is a panel of outputs by a part of the rows: its weights stay in the L2 cache.
    parts = largest_divisor(tiles, max(1, LEAST_TASKS * groups // panels(conv.y.shape[2])))
    part, mo = s.split(mo, [parts, None])
    s.reorder(po, part, mo, kh, kw, k, pi, mi, ni, f)
    task = s.fuse(po, part)
    if is_packed(conv, dot):
        decoded = s.get_sblock("decoded")
        s.compute_at(decoded, task)
        s.vectorize(s.fuse(*s.get_loops(decoded)[-2:]))
    s.reverse_compute_at(out, mo, preserve_unit_loops=True)
    s.vectorize(s.split(s.get_loops(out)[-1], [None, LANES])[1])
    s.parallel(task)
    if dot.intrinsic is None:
        s.reorder(f, ni)
        s.vectorize(ni)
    start = s.decompose_reduction(block, kh)
    s.vectorize(s.get_loops(start)[-1])
    s.unroll(mi)
    s.unroll(pi)
    if dot.intrinsic is not None:
        s.tensorize(ni, dot.intrinsic)
    padded = s.get_sblock("padded")
    _, _, _, c = s.get_loops(padded)
    width = int(s.get(c).extent)
    s.vectorize(s.split(c, [None, largest_divisor(width, 32)])[1])
    s.parallel(s.fuse(*s.get_loops(padded)[:2]))
    return s.mod[name]


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor up to a limit.

    >>> largest_divisor(14, 4), largest_divisor(7, 4), largest_divisor(12, 6)
    (2, 1, 6)
    """
    return max(d for d in range(1, most + 1) if number % d == 0)
