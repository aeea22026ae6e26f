# SPDX-License-Identifier: Apache-2.0
"""format_listing: what `qcompile formats` says of every format, measured where it can be."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import qcompile.targets as targets
from qcompile.format_theory import qsnr_db
from qcompile.formats import FORMATS, Format, scale_format
from qcompile.formats.block import BLOCK_FORMATS, block_format, stored_scales
from qcompile.layouts.layout import Shape
from qcompile.layouts.n16k4 import N16K4
from qcompile.node_specs import usual_block
from qcompile.report import table
from qcompile.settle_formats import settled_spec, squared_error
from qcompile.spec import QuantSpec
from qcompile.targets.target import Request

_ROWS, _COLUMNS = 32, 480  # of the samples: whole blocks of every size
DISTRIBUTIONS = ("gauss", "laplace", "t3")
ONNX_TYPES = {
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (2, 4, 8)},
    "e2m1": "FLOAT4E2M1",
    "e4m3": "FLOAT8E4M3FN",
    "e5m2": "FLOAT8E5M2",
}
KINDS = {  # what a product or a convolution takes: (op, activation)
    "a16": ("MatMul", None),
    "a8-dynamic": ("MatMul", "int8/row/sym/f32"),
    "a8": ("MatMul", "uint8/tensor/asym/f32"),
    "conv": ("Conv", "uint8/tensor/asym/f32"),
}


def listed() -> list[dict[str, Any]]:
    """A row for every format with a name, block formats at the end."""
    samples = {name: _samples(name) for name in DISTRIBUTIONS}
    return [_row(name, samples) for name in (*FORMATS, *BLOCK_FORMATS)]


def print_listing(console: Console) -> None:
    """`qcompile formats`."""
    rows = table(
        *("format", "bits", "with scales", "values", "entries"),
        *(f"SQNR {name}" for name in DISTRIBUTIONS),
        *("ONNX", "kernels"),
        right=(1, 2, 5, 6, 7),
    )
    for row in listed():
        low, high = row["values"]
        error = f", error {row['int16_error']:.0e}" if row["int16_error"] else ""
        rows.add_row(
            row["name"],
            str(row["bits"]),
            f"{row['bits_with_scales']:.2f}",
            f"{low:g} … {high:g}",
            f"{row['entries']}{error}",
            *(f"{row['sqnr_db'][name]:.1f}" for name in DISTRIBUTIONS),
            row["onnx"] or "",
            "; ".join(f"{t} {_kinds(k)}" for t, k in row["kernels"].items()),
        )
    console.print(rows)
    console.print(
        f"kernels: packed weights in products with {', '.join(KINDS)}; \n"
        "SQNR in dB of weights that are normal, Laplace and Student-t with 3 degrees of freedom, "
        "in the blocks and with the scales of the format, f16 and 32 where it names none; any "
        "e<E>m<M>, posit<n>_<es> of at most 8 bits and NAME[integers] are formats, too"
    )


def _row(name: str, samples: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
    found = block_format(name)
    element = found.element
    stored = stored_scales(element, found.scale or "f16")
    symmetric = element.is_signed
    size = found.block_size or usual_block(element)
    spec = QuantSpec(element, "block", 1, size, symmetric, stored)
    narrow = element.in_int16()
    values = np.array([*element.values, *element.specials], np.float64) * element.table_scale
    return {
        "name": name,
        "bits": element.bits,
        "bits_with_scales": _bits_with_scales(spec),
        "values": [float(values.min()), float(values.max())],
        "codes": [element.code_min, element.code_max],
        "is_table": element.is_table,
        "entries": _entries(element),
        "int16_error": narrow.rounding_error(element) if narrow is not element else 0.0,
        "sqnr_db": {kind: _sqnr(weight, spec) for kind, weight in samples.items()},
        "onnx": ONNX_TYPES.get(element.name),
        "scales": scale_format(stored).stored_as,
        "block_size": size,
        "kernels": _kernels(spec),
    }


def _bits_with_scales(spec: QuantSpec) -> float:
    """Bits a weight of the packed bytes of a large weight."""
    n, k = 64, 64 * spec.block_size
    stored = scale_format(spec.scale_format).stored_as
    shape = Shape(n, k, spec.format, spec.block_size, stored, not spec.is_symmetric)
    return 8 * N16K4.num_bytes(shape) / (n * k)


def _entries(element: Format) -> str:
    """What integer kernels multiply."""
    return "integers" if not element.is_table else "int8" if element.entry_bits == 8 else "int16"


def _kernels(spec: QuantSpec) -> dict[str, list[str]]:
    """Per target the kinds of products that it has a kernel for."""
    found = {}
    for name, target in targets.TARGETS.items():
        kinds = []
        for kind, (op, activation) in KINDS.items():
            form = spec.format if activation is None else spec.format.in_int16()
            asked = replace(spec, format=form)
            if kind in ("a8", "conv"):
                asked = QuantSpec(form, "axis", is_symmetric=spec.is_symmetric)
            given = None if activation is None else QuantSpec.parse(activation)
            if target.refuse(Request(op, asked, given, 1024)) is None:
                kinds.append(kind)
        if kinds:
            found[name] = kinds
    return found


def _kinds(kinds: list[str]) -> str:
    return "all" if len(kinds) == len(KINDS) else "+".join(kinds)


def _sqnr(weight: NDArray[np.float32], spec: QuantSpec) -> float:
    noise = squared_error(weight, settled_spec(weight, spec))
    return qsnr_db(noise / float(np.square(weight, dtype=np.float64).sum()))


def _samples(distribution: str) -> NDArray[np.float32]:
    """Weights [N, K] of a distribution."""
    rng = np.random.default_rng(0)
    shape = (_ROWS, _COLUMNS)
    drawn = {
        "gauss": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape),
        "t3": lambda: rng.standard_t(3, shape),
    }[distribution]()
    return np.asarray(drawn, np.float32)
