# SPDX-License-Identifier: Apache-2.0
"""Pooling, adding and looking up on a CPU by TVM's LLVM, one code a byte."""

from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule

from qcompile.integer_graph import Add, Excerpt, GlobalAveragePool, Lookup, MaxPool
from qcompile.targets.tvm.llvm_epilogue import added, centred, requantize, to_code
from qcompile.targets.tvm.plan import code_kind


def max_pool_function(node: MaxPool, batch: int, name: str) -> Any:
    """(x, y)."""
    x = te.placeholder((batch, *node.x.shape), code_kind(node.x), "x")
    (sh, sw), (top, left), (H, W, _) = node.window.strides, node.window.pads[:2], node.x.shape
    i = te.reduce_axis((0, node.window.kernel[0]), "kh")
    j = te.reduce_axis((0, node.window.kernel[1]), "kw")
    least = tirx.const(node.x.range[0], code_kind(node.x))

    def one(b: Any, oh: Any, ow: Any, c: Any) -> Any:
        ih, iw = oh * sh - top + i, ow * sw - left + j
        inside = tirx.all(ih >= 0, ih < H, iw >= 0, iw < W)
        return te.max(tirx.if_then_else(inside, x[b, ih, iw, c], least), axis=[i, j])

    y = te.compute((batch, *node.y.shape), one, name="y")
    return _schedule([x, y], name)


def global_average_function(node: GlobalAveragePool, batch: int, name: str) -> Any:
    """(x, channels, y)."""
    H, W, C = node.x.shape
    x = te.placeholder((batch, H, W, C), code_kind(node.x), "x")
    table = te.placeholder((3, C), "int32", "channels")
    i, j = te.reduce_axis((0, H), "i"), te.reduce_axis((0, W), "j")
    total = te.compute(
        (batch, C), lambda b, c: te.sum(x[b, i, j, c].astype("int32"), axis=[i, j]), name="sums"
    )

    def one(b: Any, _i: Any, _j: Any, c: Any) -> Any:
        centred = total[b, c] - H * W * node.x.zero_point
        return to_code(requantize(centred, table, c), node.y, node.limits)

    y = te.compute((batch, 1, 1, C), one, name="y")
    return _schedule([x, table, y], name)


def add_function(node: Add, batch: int, name: str) -> Any:
    """(a, b, y)."""
    shape = (batch, *node.y.shape)
    a, b = (
        te.placeholder(shape, code_kind(x), label) for label, x in (("a", node.a), ("b", node.b))
    )

    def one(*index: Any) -> Any:
        left, right = centred(a[index], node.a), centred(b[index], node.b)
        return added(left, right, node.scale, node.y, node.limits)

    return _schedule([a, b, te.compute(shape, one, name="y")], name)


def lookup_function(node: Lookup, batch: int, name: str) -> Any:
    """(x, table uint8 [256], y)."""
    shape = (batch, *node.y.shape)
    x = te.placeholder(shape, code_kind(node.x), "x")
    table = te.placeholder((256,), "uint8", "table")
    y = te.compute(shape, lambda *index: table[x[index].astype("int32")], name="y")
    return _schedule([x, table, y], name)


def excerpt_function(node: Excerpt, batch: int, name: str) -> Any:
    """(x, y)."""
    kind = code_kind(node.x)
    x = te.placeholder((batch, *node.x.shape), kind, "x")

    def one(s: Any, *index: Any) -> Any:
        places = [i - before for i, before in zip(index, node.before, strict=True)]
        inside = tirx.all(
            *(tirx.all(k >= 0, k < n) for k, n in zip(places, node.count, strict=True))
        )
        source = [
            start + step * k for start, step, k in zip(node.start, node.step, places, strict=True)
        ]
        return tirx.if_then_else(inside, x[(s, *source)], tirx.const(node.x.zero_point, kind))

    return _schedule([x, te.compute((batch, *node.y.shape), one, name="y")], name)


def _schedule(tensors: list[Any], name: str) -> Any:
    """Channels are innermost and vectorized, everything outside them runs in parallel."""
    function = te.create_prim_func(tensors).with_attr("global_symbol", name)
    s = Schedule(tvm.IRModule({name: function}))
    s.work_on(name)
    for block in s.get_child_blocks(s.get_sblock("root")):
        loops = s.get_loops(block)
        kinds = [i.iter_type for i in s.get(block).iter_vars]
        spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
        rest = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != 0]
        s.reorder(*spatial[:-1], *rest, spatial[-1])
        s.vectorize(s.split(spatial[-1], [None, 16])[1])
        s.parallel(s.fuse(*spatial[:-1]))
    return s.mod[name]
