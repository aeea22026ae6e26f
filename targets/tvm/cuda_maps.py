# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels that are bound by memory: packing, pooling, adding, tables; a thread a word."""

from typing import Any

from tvm.tirx.script.builder import ir as T

from qcompile.integer_graph import Add, CodeMap, Excerpt, GlobalAveragePool, Lookup, MaxPool
from qcompile.targets.tvm import cuda_epilogue as epilogue
from qcompile.targets.tvm.cuda_frame import flat, function, parameter, threads_over, when
from qcompile.targets.tvm.plan import code_kind
from qcompile.targets.tvm.words import num_words, per_word

THREADS = 128


def word_shape(x: CodeMap, batch: int) -> tuple[int, int, int, int]:
    """The array that holds a map on the device: words, or int32 sums."""
    H, W, C = x.shape
    return batch, H, W, num_words(C, x.bits)


def pack_kernel(x: CodeMap, batch: int, name: str) -> Any:
    """(codes [batch, H, W, C], y words): fields beyond the channels are 0."""
    C, words = x.shape[2], num_words(x.shape[2], x.bits)

    def emit() -> None:
        codes = parameter("x", (batch, *x.shape), code_kind(x))
        y = parameter("y", word_shape(x, batch))
        codes, y = flat(codes), flat(y)

        def one(item: Any) -> None:
            pixel, first = item // words, item % words * per_word(x.bits)
            fields = [
                T.if_then_else(first + f < C, T.cast(codes[pixel * C + first + f], "int32"), 0)
                for f in range(per_word(x.bits))
            ]
            T.buffer_store(y, epilogue.join(fields, x.bits), [item])

        threads_over(batch * x.shape[0] * x.shape[1] * words, THREADS, one)

    return function(name, emit)


def unpack_kernel(x: CodeMap, batch: int, name: str) -> Any:
    """(x words, codes [batch, H, W, C])."""
    C, words = x.shape[2], num_words(x.shape[2], x.bits)

    def emit() -> None:
        source = parameter("x", word_shape(x, batch))
        y = parameter("y", (batch, *x.shape), code_kind(x))
        source, y = flat(source), flat(y)

        def one(item: Any) -> None:
            c = item % C
            word = source[item // C * words + c // per_word(x.bits)]
            code = epilogue.extract(word, c % per_word(x.bits), x.bits, is_signed=x.is_signed)
            T.buffer_store(y, T.cast(code, code_kind(x)), [item])

        threads_over(batch * x.shape[0] * x.shape[1] * C, THREADS, one)

    return function(name, emit)


def max_pool_kernel(node: MaxPool, batch: int, name: str) -> Any:
    """(x words, y words)."""
    x, bits = node.x, node.x.bits
    (kh, kw), (sh, sw) = node.window.kernel, node.window.strides
    top, left = node.window.pads[:2]
    (H, W, _), (OH, OW, C) = x.shape, node.y.shape
    words = num_words(C, bits)

    def emit() -> None:
        source = parameter("x", word_shape(x, batch))
        y = parameter("y", word_shape(node.y, batch))
        source, y = flat(source), flat(y)

        def one(item: Any) -> None:
            best = T.alloc_buffer((per_word(bits),), "int32", scope="local")
            for f in range(per_word(bits)):
                T.buffer_store(best, T.int32(x.range[0]), [f])
            pixel = item // words
            with T.serial(kh) as i, T.serial(kw) as j:
                ih, iw = pixel // OW % OH * sh - top + i, pixel % OW * sw - left + j
                inside = T.And(T.And(ih >= 0, ih < H), T.And(iw >= 0, iw < W))
                with when(inside):
                    address = ((pixel // (OH * OW) * H + ih) * W + iw) * words + item % words
                    for f in range(per_word(bits)):
                        code = epilogue.extract(source[address], f, bits, is_signed=x.is_signed)
                        T.buffer_store(best, T.max(best[f], code), [f])
            fields = [best[f] for f in range(per_word(bits))]
            T.buffer_store(y, epilogue.join(fields, bits), [item])

        threads_over(batch * OH * OW * words, THREADS, one)

    return function(name, emit)


def global_average_kernel(node: GlobalAveragePool, batch: int, name: str) -> Any:
    """(x words, channels, y words)."""
    x, y_bits = node.x, node.y.bits
    H, W, C = x.shape
    x_words, y_words = num_words(C, x.bits), num_words(C, y_bits)

    def emit() -> None:
        source = parameter("x", word_shape(x, batch))
        table = parameter("channels", (3, padded_channels(node.y)))
        y = parameter("y", word_shape(node.y, batch))
        source, y = flat(source), flat(y)

        def one(item: Any) -> None:
            sample, first = item // y_words, item % y_words * per_word(y_bits)
            fields = []
            for f in range(per_word(y_bits)):
                total = T.alloc_buffer((1,), "int32", scope="local")
                T.buffer_store(total, T.int32(-H * W * x.zero_point), [0])
                c = T.min(first + f, C - 1)
                with T.serial(H * W) as p:
                    word = source[(sample * (H * W) + p) * x_words + c // per_word(x.bits)]
                    field = c % per_word(x.bits)
                    code = epilogue.extract(word, field, x.bits, is_signed=x.is_signed)
                    T.buffer_store(total, total[0] + code, [0])
                value = epilogue.requantize(total[0], table, first + f)
                fields.append(epilogue.to_code(value, node.y.zero_point, node.limits))
            T.buffer_store(y, epilogue.join(fields, y_bits), [item])

        threads_over(batch * y_words, 32, one)

    return function(name, emit)


def add_kernel(node: Add, batch: int, name: str) -> Any:
    """(a words, b words, y words)."""
    H, W, _ = node.y.shape
    bits, words = node.y.bits, num_words(node.y.shape[2], node.y.bits)

    def emit() -> None:
        a, b = (parameter(n, word_shape(x, batch)) for n, x in (("a", node.a), ("b", node.b)))
        y = flat(parameter("y", word_shape(node.y, batch)))
        a, b = flat(a), flat(b)

        def one(item: Any) -> None:
            pixel, first = item // words, item % words * per_word(bits)
            fields = []
            for f in range(per_word(bits)):
                left = epilogue.centred(node.a, a, pixel, first + f)
                right = epilogue.centred(node.b, b, pixel, first + f)
                total = epilogue.add(left, right, node.scale)
                fields.append(epilogue.to_code(total, node.y.zero_point, node.limits))
            T.buffer_store(y, epilogue.join(fields, bits), [item])

        threads_over(batch * H * W * words, THREADS, one)

    return function(name, emit)


def lookup_kernel(node: Lookup, batch: int, name: str) -> Any:
    """(x words, table uint8 [256], y words). Fields beyond the channels are entries of field 0."""
    (H, W, C), x_bits, bits = node.x.shape, node.x.bits, node.y.bits
    x_words, words = num_words(C, x_bits), num_words(C, bits)

    def emit() -> None:
        source = parameter("x", word_shape(node.x, batch))
        table = parameter("table", (256,), "uint8")
        y = flat(parameter("y", word_shape(node.y, batch)))
        source = flat(source)

        def one(item: Any) -> None:
            pixel, first = item // words, item % words * per_word(bits)
            fields = []
            for f in range(per_word(bits)):
                c = T.min(first + f, C - 1)
                word = source[pixel * x_words + c // per_word(x_bits)]
                code = epilogue.extract(word, c % per_word(x_bits), x_bits, is_signed=False)
                fields.append(T.cast(table[code], "int32"))
            T.buffer_store(y, epilogue.join(fields, bits), [item])

        threads_over(batch * H * W * words, THREADS, one)

    return function(name, emit)


def excerpt_kernel(node: Excerpt, batch: int, name: str) -> Any:
    """(x words, y words)."""
    x, bits = node.x, node.y.bits
    (H, W, C), (OH, OW, OC) = x.shape, node.y.shape
    fields, x_words, words = per_word(bits), num_words(C, bits), num_words(OC, bits)

    def emit() -> None:
        source = parameter("x", word_shape(x, batch))
        y = flat(parameter("y", word_shape(node.y, batch)))
        source = flat(source)

        def at(i: Any, axis: int) -> tuple[Any, Any]:
            """Whether element i of an axis is one of x, and which."""
            k = i - node.before[axis]
            is_real = T.And(k >= 0, k < node.count[axis])
            return is_real, node.start[axis] + node.step[axis] * k

        def one(item: Any) -> None:
            pixel, first = item // words, item % words * fields
            has_row, row = at(pixel // OW % OH, 0)
            has_column, column = at(pixel % OW, 1)
            held = T.alloc_buffer((fields,), "int32", scope="local")
            for f in range(fields):
                T.buffer_store(held, T.int32(x.zero_point), [f])
            with when(T.And(has_row, has_column)):
                start = ((pixel // (OH * OW) * H + row) * W + column) * x_words
                for f in range(fields):
                    is_real, c = at(first + f, 2)
                    with when(is_real):
                        word = source[start + c // fields]
                        code = epilogue.extract(word, c % fields, bits, is_signed=x.is_signed)
                        T.buffer_store(held, code, [f])
            T.buffer_store(y, epilogue.join([held[f] for f in range(fields)], bits), [item])

        threads_over(batch * OH * OW * words, THREADS, one)

    return function(name, emit)


def padded_channels(y: CodeMap) -> int:
    """Channels with the padding of the last word."""
    return num_words(y.shape[2], y.bits) * per_word(y.bits)
