# SPDX-License-Identifier: Apache-2.0
"""format_listing: what `qcompile formats` says of every format, measured where it can be."""

from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

import qcompile.targets as targets
from qcompile.format_sqnr import DISTRIBUTIONS, SQNR_DB, listed_spec
from qcompile.formats import DECODED_ONLY, FORMATS, IROOTS, PALETTES, Format, scale_format
from qcompile.formats.block import BLOCK_FORMATS, block_format
from qcompile.formats.onnx_types import onnx_type
from qcompile.layouts.layout import Shape
from qcompile.layouts.n16k4 import N16K4
from qcompile.layouts.n16k4c import N16K4C
from qcompile.report import table
from qcompile.softmax_listing import softmax_cells, softmax_listed
from qcompile.spec import QuantSpec
from qcompile.targets.target import Request

KINDS = {  # what a product or a convolution takes: (op, activation)
    "a16": ("MatMul", None),
    "a8-dynamic": ("MatMul", "int8/row/sym/f32"),
    "a8": ("MatMul", "uint8/tensor/asym/f32"),
    "conv": ("Conv", "uint8/tensor/asym/f32"),
}


def listed() -> list[dict[str, Any]]:
    """A row for every format with a name; at the end block formats, those that are recognised and
    those without kernels.
    """
    decoded = [_decoded_row(name) for name in DECODED_ONLY]
    palettes = [_palette_row(name) for name in PALETTES]
    return [*map(_row, (*FORMATS, *BLOCK_FORMATS)), _roots_row(), *palettes, *decoded]


def print_listing(console: Console) -> None:
    """`qcompile formats`."""
    rows = table(
        *("format", "bits", "with scales", "values", "entries"),
        *(f"SQNR {name}" for name in DISTRIBUTIONS),
        *("ONNX", "kernels"),
        right=(1, 2, 5, 6, 7),
    )
    for row in listed():
        ends = row["values"]
        error = f", error {row['int16_error']:.0e}" if row["int16_error"] else ""
        rows.add_row(
            row["name"],
            str(row["bits"]),
            "" if row["bits_with_scales"] is None else f"{row['bits_with_scales']:.2f}",
            "of each block" if ends is None else f"{ends[0]:g} … {ends[1]:g}",
            f"{row['entries']}{error}",
            *("" if v is None else f"{v:.1f}" for v in row["sqnr_db"].values()),
            row["onnx"] or "",
            row.get("reason") or "; ".join(f"{t} {_kinds(k)}" for t, k in row["kernels"].items()),
        )
    console.print(rows)
    console.print(
        f"kernels: packed weights in products with {', '.join(KINDS)}; \n"
        "SQNR in dB of weights that are normal, Laplace and Student-t with 3 degrees of freedom, "
        "in the blocks and with the scales of the format, f16 and 32 where it names none "
        "(standard deviation of a draw 0.1 dB, Laplace 0.15, t3 0.7); "
        "ONNX: the type of codes, and of scales where the format has one of its own; any "
        "e<E>m<M>, posit<n>_<es> of at most 8 bits and NAME[integers] are formats, too"
    )
    print_softmax(console)


def print_softmax(console: Console) -> None:
    """The formats of weights in attention, and why other targets have none."""
    rows = table("softmax", "bits", "smallest ÷ largest", "step", "kernels of cpu", right=(1,))
    found = softmax_listed()
    for row in found:
        rows.add_row(*softmax_cells(row))
    console.print(rows)
    reasons = ", ".join(f"{target}: {why}" for target, why in found[0]["not_on"].items())
    console.print(f"softmax: of --softmax-format; not on {reasons}")


def _row(name: str) -> dict[str, Any]:
    spec, asked = listed_spec(name), block_format(name)
    element = spec.format
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
        "sqnr_db": dict(zip(DISTRIBUTIONS, SQNR_DB[name], strict=True)),
        "onnx": onnx_type(element.name, asked.scale),
        "scales": scale_format(spec.scale_format).stored_as,
        "block_size": spec.block_size,
        "kernels": _kernels(spec),
    }


def _roots_row() -> dict[str, Any]:
    """iroots2: ±1 and ±i, of products that iroots2 turns (complex_roots.py), MatMul all of them."""
    row = _row(IROOTS)
    kinds = [kind for kind in row["kernels"]["cpu"] if kind != "conv"]
    return row | {
        "bits": 2,  # of a complex weight
        "bits_with_scales": 2 * row["bits_with_scales"],
        "codes": [0, 3],
        "block_size": None,
        "kernels": {"cpu": kinds},
        "reason": f"cpu {_kinds(kinds)}, of complex products",
    }


def _palette_row(name: str) -> dict[str, Any]:
    """Blocks with values of their own, which are recognised; with f16 levels of rows of 4096."""
    element = PALETTES[name]
    spec = QuantSpec(element, "axis", scale_format="f16")
    shape = Shape(64, 4096, element, 0, "f16", False)
    kinds = _kernels(spec)
    return {
        "name": name,
        "bits": element.bits,
        "bits_with_scales": 8 * N16K4C.num_bytes(shape) / (shape.N * shape.K),
        "values": None,
        "codes": [element.code_min, element.code_max],
        "is_table": False,
        "entries": "floats",
        "int16_error": 0.0,
        "sqnr_db": dict.fromkeys(DISTRIBUTIONS),
        "onnx": None,
        "scales": None,
        "block_size": None,
        "kernels": kinds,
        "reason": f"cpu {_kinds(kinds['cpu'])}, where a weight has such blocks",
    }


def _decoded_row(name: str) -> dict[str, Any]:
    """A format of more bits than kernels run."""
    found = DECODED_ONLY[name]
    return {
        "name": name,
        "bits": found.bits,
        "bits_with_scales": None,
        "values": [-found.largest, found.largest],
        "codes": [0, 2**found.bits - 1],
        "is_table": True,
        "entries": "none",
        "int16_error": 0.0,
        "sqnr_db": dict.fromkeys(DISTRIBUTIONS),
        "onnx": None,
        "scales": None,
        "block_size": None,
        "kernels": {},
        "reason": f"none: {found.reason}",
    }


def _bits_with_scales(spec: QuantSpec) -> float:
    """Bits a weight of the packed bytes of a large weight."""
    n, k = 64, 64 * (spec.block_size or 64)
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
