# SPDX-License-Identifier: Apache-2.0
"""The rung of verify for quantized activations: ONNX Runtime's codes are those of numerics."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.bodies import nodes_of
from qcompile.data import Data
from qcompile.division import Division
from qcompile.graph import DOMAIN, constant
from qcompile.numerics.quantize import quantize
from qcompile.plan import Plan
from qcompile.session import open_own, session_options, with_outputs
from qcompile.spec import QuantSpec
from qcompile.step_tables import table_of_steps
from qcompile.verdict import Check

_FORMAT = QuantSpec.parse("uint8/tensor/asym/f32").format


def check_activations(
    quantized: ir.Model, plan: Plan, data: Data, division: Division | None = None
) -> list[Check]:
    """transform: the codes that ORT's QuantizeLinear makes are those of numerics (N2)."""
    inserted = {f"{name}/quantize" for name in plan.activations}  # others are the user's own
    nodes = [n for n in quantized.graph if n.op_type == "QuantizeLinear" and n.name in inserted]
    if not nodes:
        return []
    options = session_options(optimise=False)
    if any(n.domain == DOMAIN for n in nodes_of(quantized)):
        runtime_ops.register(options)
    division = division or Division()
    # a float and its code; the codes of one value at a time in float64 beside them
    sizes = {n: 2 * division.footprint.of_values([_source(n)]) for n in nodes}
    parts, groups = division.split(sizes, data)
    wrong, where, count = 0, "", 0
    for group in groups:
        pairs = [(_source(n), n.outputs[0].name or "", n) for n in group]
        names = list(dict.fromkeys(name for x, y, _ in pairs for name in (x, y)))
        names += [name for name in map(_stepped_scale, group) if name and name not in names]
        session = open_own(with_outputs(quantized, names), "the QDQ graph", options)
        for feed in parts:
            found = dict(zip(names, session.run(names, feed), strict=True))
            for source, made, node in pairs:
                scale = found.get(_stepped_scale(node))
                bad = _wrong_codes(node, found[source], found[made], scale)
                count += found[made].size
                if bad:
                    wrong, where = wrong + bad, source
    rung, source_text = "transform: activations", "codes that differ from numerics (N2)"
    return [Check(rung, wrong, 0, source_text, where, count)]


def _source(node: ir.Node) -> str:
    value = node.inputs[0]
    return "" if value is None else value.name or ""


def _stepped_scale(node: ir.Node) -> str:
    """The name of a scale that the time step chooses, else ""."""
    value = node.inputs[1]
    return value.name or "" if value is not None and table_of_steps(value) is not None else ""


def _wrong_codes(node: ir.Node, real: NDArray, codes: NDArray, chosen: NDArray | None) -> int:
    """chosen: the scale of this run, where the time step chooses it."""
    scale, point = (np.asarray(constant(node.inputs[i])) for i in (1, 2))
    scale = scale if chosen is None else chosen
    if scale.ndim:  # along axis 1
        shape = (-1, *[1] * (codes.ndim - 2))
        scale, point = scale.reshape(shape), point.reshape(shape)
    expected = quantize(real, scale, point, _FORMAT, symmetric=False)
    return int((expected != codes).sum())
