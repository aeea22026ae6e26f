# SPDX-License-Identifier: Apache-2.0
"""Target: what a backend runs, and the passes that lower to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from qcompile.integer_graph import IntegerGraph
from qcompile.spec import QuantSpec


@dataclass(frozen=True)
class Request:
    """What annotate asks a target: can this op run with these specs? `group` is that of a Conv."""

    op_type: str
    weight: QuantSpec
    activation: QuantSpec | None
    K: int
    group: int = 1
    is_depthwise: bool = False


@dataclass(frozen=True)
class Built:
    """What a target says of a library that it wrote.

    runtime: the libraries that it needs, in the order of loading. instructions: what the processor
    must have, as /proc/cpuinfo names it. kernels: a row each, for the manifest.
    """

    runtime: tuple[Path, ...]
    instructions: tuple[str, ...] = ()
    minimum_driver: int | None = None
    kernels: tuple[dict[str, Any], ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Compiler:
    """How a target makes a library of an integer graph.

    check: raises UnsupportedError where a tool is missing. build: writes the library, and what
    belongs to it beside it. device: "cpu" or "cuda". emulate: where the
    device may be absent, the same kernels on the CPU; from the CUDA source given, or a fresh one.
    """

    device: str
    check: Callable[[], None]
    build: Callable[[IntegerGraph, Path], Built]
    emulate: Callable[[IntegerGraph, str | None], Any] | None = None


@dataclass(frozen=True)
class Target:
    """A backend. `refuse(request)` gives None or the reason with its cure; `lower` the passes.

    weight_bits(op type, bits of the preset, activation): the nearest bits that it has a kernel for.
    dynamic_note: how the target's dynamic activations differ from numerics, if they do.
    integer_note: what products of two kinds of codes need of the processor or the session.
    gives_floats: whether a static product may give floats.
    lower_integer: the passes of --integer-only, where the target has that form.
    has_row_ops: whether LayerNormalization, RMSNorm, Softmax and attention run on codes.
    compiler: of targets whose artifact is a library; they are always integer-only.
    """

    name: str
    summary: str
    needs_library: bool
    refuse: Callable[[Request], str | None]
    kernel: Callable[[Request], str]
    lower: Callable[[], list[ir.passes.InPlacePass]]
    packs: bool
    weight_bits: Callable[[str, int, QuantSpec | None], int] = lambda op_type, bits, activation: (
        bits
    )
    dynamic_note: str = ""
    integer_note: str = ""
    gives_floats: bool = True
    lower_integer: Callable[[], list[ir.passes.InPlacePass]] | None = None
    has_row_ops: bool = True
    compiler: Compiler | None = None
