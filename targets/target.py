# SPDX-License-Identifier: Apache-2.0
"""Target: what a backend runs, and the passes that lower to it."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

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
class Target:
    """A backend. `refuse(request)` gives None or the reason with its cure; `lower` the passes.

    weight_bits(op type, bits of the preset, activation): the nearest bits that it has a kernel for.
    dynamic_note: how the target's dynamic activations differ from numerics, if they do.
    integer_note: what products of two kinds of codes need of the processor or the session.
    gives_floats: whether a static product may give floats.
    lower_integer: the passes of --integer-only, where the target has that form.
    has_row_ops: whether LayerNormalization, RMSNorm and Softmax run on codes.
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
