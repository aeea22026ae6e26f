# SPDX-License-Identifier: Apache-2.0
"""The limits of this machine, measured on the spot without a compiler: memory and products."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile import runtime_ops
from qcompile.formats import get
from qcompile.layouts.n16k4 import N16K4, pack
from qcompile.numerics.weight import CodedWeight
from qcompile.session import open_model, session_options

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # sizes as "32768K", by Linux
READ_BYTES = 128 << 20  # more than a last-level cache holds for one core
REPEATS = 5
ROWS, WIDTH = 256, 1024  # a product that is bound by instructions: 256 uses of every weight
NARROW_BITS = 6  # up to here AVX2 has a faster exact way (docs/kernels.md)


@dataclass(frozen=True)
class Limits:
    """Bytes a second from memory; products a second that the best QMatMul here reaches.

    wide: of 8-bit weights; narrow: of 4-bit ones. They are None without the op library.
    cache_bytes: the last-level cache, 0 where the system does not say.
    """

    bytes_per_second: float
    wide_per_second: float | None
    narrow_per_second: float | None
    cache_bytes: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)

    def products_per_second(self, bits: int) -> float | None:
        """For weights of so many bits."""
        return self.narrow_per_second if bits <= NARROW_BITS else self.wide_per_second


def measure_limits(threads: int) -> Limits:
    """All of them, with so many threads; about half a second."""
    has_ops = runtime_ops.is_available()
    return Limits(
        _read_speed(threads),
        _product_speed("int8", threads) if has_ops else None,
        _product_speed("int4", threads) if has_ops else None,
        cache_size(),
    )


def cache_size() -> int:
    """Bytes of the last level that the system reports, 0 where it reports none."""
    sizes = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    return max((int(size[:-1]) << 10 for size in sizes if size[:-1].isdigit()), default=0)


def _read_speed(threads: int) -> float:
    data = np.ones(READ_BYTES // 8, np.int64)
    parts = np.array_split(data, threads)
    with ThreadPoolExecutor(threads) as pool:
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            list(pool.map(np.max, parts))  # NumPy lets go of the interpreter meanwhile
            times.append(time.perf_counter() - start)
    return READ_BYTES / min(times)


def _product_speed(format_name: str, threads: int) -> float:
    options = session_options(threads)
    runtime_ops.register(options)
    session = open_model(_product(format_name), options)
    feed = {"x": np.full((ROWS, WIDTH), 128, np.uint8)}
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return ROWS * WIDTH * WIDTH / min(times)


@functools.cache
def _product(format_name: str) -> ir.Model:
    """x uint8 [ROWS, WIDTH] → y uint8 [ROWS, WIDTH] by one QMatMul."""
    format = get(format_name)
    codes = np.random.default_rng(0).integers(
        format.code_min, format.code_max + 1, (WIDTH, WIDTH), dtype=np.int16
    )
    weight = CodedWeight(codes, None, None, format, 0, "none")
    attributes: dict[str, str | int] = {
        "abi": runtime_ops.ABI, "layout": N16K4.name, "format": format.name, "bits": format.bits,
        "is_signed": 1, "N": WIDTH, "K": WIDTH, "block_size": 0, "scale_format": "none",
        "has_zero_point": 0, "activation": "static", "x_zero_point": 128, "y_zero_point": 0,
        "y_min": 0, "y_max": 255,
    }  # fmt: skip
    x = ir.val("x", ir.DataType.UINT8, [ROWS, WIDTH])
    y = ir.val("y", ir.DataType.UINT8, [ROWS, WIDTH])
    constants = [
        _constant("weight", pack(weight)),
        _constant("multiplier", np.full(WIDTH, 1e-4, np.float32)),
    ]
    node = ir.node(
        "QMatMul",
        [x, constants[0], None, constants[1]],
        attributes,
        domain=runtime_ops.DOMAIN,
        outputs=[y],
    )
    opsets = {"": 21, runtime_ops.DOMAIN: 1}
    graph = ir.Graph([x], [y], nodes=[node], initializers=constants, opset_imports=opsets, name="p")
    return ir.Model(graph, ir_version=10)


def _constant(name: str, array: NDArray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    kind = ir.TensorType(tensor.dtype)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
