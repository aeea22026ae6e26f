# SPDX-License-Identifier: Apache-2.0
"""Split recurrent nodes against the nodes that they were, step by step on recorded inputs.

Rounding grows from step to step, in a chaotic network without end: outputs after many steps tell
little. One step tells all: the product of the input against W in float64, and the body of the Scan
against the recurrent op itself, which runs one step from the recorded state.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.bodies import Body, all_bodies, bodies_in, closed
from qcompile.body_data import Recording
from qcompile.data import Data
from qcompile.graph import attribute, constant, input_of
from qcompile.passes.normalise.recurrent_cells import DEFAULTS, inner_bias
from qcompile.passes.normalise.recurrent_scans import PART_OF, B, P, R, W
from qcompile.session import open_model, run_float, session_options, with_outputs
from qcompile.verdict import Check

UNIT = 2.0**-23
NUDGE = 2.0**-16  # far above rounding, far below what the network tells apart
OPS_OF_A_STEP = 16  # elementwise ones between the product and the state, at most


def check_split(
    originals: dict[str, ir.Node], model: ir.Model, data: Data, inside: dict[str, Recording]
) -> list[Check]:
    """normalise: inputs and steps of the recurrent nodes that were split in this graph.

    originals: the nodes of the user's model by name. Both are in units of the rounding of their
    sums: 2 (K + 16) · 2^-23 · the largest sum of |products|.
    """
    found = [b for b in bodies_in(model.graph) if PART_OF in b.holder.metadata_props]
    if not found:
        return []
    worst, where, count = 0.0, "", 0
    for body in found:
        name = body.holder.metadata_props[PART_OF].split("\n")[0]
        original, direction = originals[name], _direction(body)
        gaps = [*_input_gaps(body, original, direction, model, data)]
        gaps += _step_gaps(body, original, direction, model, inside[body.path])
        for gap, size in gaps:
            count += size
            if not gap <= worst:
                worst, where = gap, body.path
    text = "|difference from the recurrent op in one step| ÷ the rounding of its sums"
    return [Check("normalise: steps", worst, 1.0, text, where, count)]


def nudged(model: ir.Model) -> ir.Model | None:
    """The model with all recurrent weights 1 + NUDGE times as large; None where nothing was split.

    What that does to the outputs tells how much the rounding of each step grows until they come.
    """
    copy, is_split = model.clone(), False
    for body in all_bodies(copy.graph):
        if PART_OF not in body.holder.metadata_props:
            continue
        is_split = True
        for value in body.graph.initializers.values():
            array = constant(value)
            if array is not None and array.ndim == 2 and array.dtype == np.float32:
                value.const_value = ir.tensor(array * np.float32(1 + NUDGE), name=value.name)
    return copy if is_split else None


def _direction(body: Body) -> int:
    name = body.holder.name or ""
    return int(name[-1]) if name.endswith(("_0", "_1")) else 0


def _array(node: ir.Node, index: int) -> NDArray[np.float32] | None:
    return constant(input_of(node, index))


def _biases(node: ir.Node, direction: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is added to the input's product, and what inside."""
    recurrence, held = _array(node, R), _array(node, B)
    assert recurrence is not None
    rows, hidden = recurrence.shape[1:]
    both = np.zeros(2 * rows, np.float32) if held is None else held[direction]
    part = inner_bias(
        node.op_type,
        linear_before_reset=bool(attribute(node, "linear_before_reset", 0)),
        hidden=hidden,
    )
    inner = np.zeros(rows, np.float32)
    inner[part] = both[rows:][part]
    return both[:rows] + both[rows:] - inner, inner


def _input_gaps(
    body: Body, node: ir.Node, direction: int, model: ir.Model, data: Data
) -> Iterator[tuple[float, int]]:
    """The product of the input, where the input still has its name."""
    x_name = node.inputs[0].name or "" if node.inputs[0] is not None else ""
    names = {v.name for n in model.graph for v in n.outputs} | {v.name for v in model.graph.inputs}
    if x_name not in names:
        return
    count = len(body.graph.outputs) - 1
    sums = body.holder.inputs[count]
    weight = _array(node, W)
    assert sums is not None and weight is not None
    asked = [x_name, sums.name or ""]
    session = open_model(with_outputs(model, asked), session_options(1, optimise=False))
    w, bias = weight[direction].astype(np.float64), _biases(node, direction)[0]
    for feed in data:
        x, found = run_float(session, asked, feed)
        wide = x.astype(np.float64)
        wanted = wide @ w.T + bias
        size = np.abs(wide) @ np.abs(w.T) + np.abs(bias)
        yield _ratio(found, wanted, w.shape[1], size), found.size


def _step_gaps(
    body: Body, node: ir.Node, direction: int, model: ir.Model, recording: Recording
) -> Iterator[tuple[float, int]]:
    """The states after each recorded step."""
    split = open_model(closed(model, body.path), session_options(1, optimise=False))
    whole, recurrence = one_step(node, direction), _array(node, R)
    assert recurrence is not None
    names = [v.name or "" for v in body.graph.inputs]
    count, held = len(body.graph.outputs) - 1, np.abs(recurrence[direction])
    for feed in recording.feeds:
        states, sums = [feed[n] for n in names[:count]], feed[names[count]]
        given = {"x": sums[None]} | dict(zip(("h", "c"), (s[None] for s in states), strict=False))
        wanted = run_float(whole, None, given)[1:]
        within = feed[names[count + 1]] if len(names) > count + 1 else np.array(True)
        size = float((np.abs(states[0]) @ held.T).max(initial=0))
        size += float(np.abs(sums).max(initial=0)) + 1
        size *= 1 + max(float(np.abs(s).max(initial=0)) for s in states)  # gates multiply states
        for i, found in enumerate(run_float(split, None, feed)[:count]):
            expected = np.where(within, wanted[i][0], states[i])
            yield _ratio(found, expected, held.shape[1], np.array(size)), found.size


def _ratio(found: NDArray, wanted: NDArray, terms: int, size: NDArray) -> float:
    bound = 2 * (terms + OPS_OF_A_STEP) * UNIT * size + 2.0**-126
    gap = np.abs(found.astype(np.float64) - wanted) / bound
    return float("inf") if np.isnan(gap).any() else float(gap.max(initial=0))


def one_step(node: ir.Node, direction: int) -> ort.InferenceSession:
    """The recurrent op on one step: x [1, batch, rows] is the input's product, h and c the state.

    Its W is the identity, and its bias is what is added inside.
    """
    recurrence = _array(node, R)
    assert recurrence is not None
    rows, hidden = recurrence.shape[1:]
    bias = np.concatenate([np.zeros(rows, np.float32), _biases(node, direction)[1]])
    held = {"w": np.eye(rows, dtype=np.float32)[None], "r": recurrence[direction][None]}
    held["b"] = bias[None]
    letters = "hc" if node.op_type == "LSTM" else "h"
    inputs = [ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT)) for n in ("x", *letters)]
    for value, dims in zip(inputs, (["s", "n", rows], *[[1, "n", hidden]] * 2), strict=False):
        value.shape = ir.Shape(dims)
    peepholes = _array(node, P) if node.op_type == "LSTM" else None
    if peepholes is not None:
        held["p"] = peepholes[direction][None]
    constants = {n: ir.Value(name=n, const_value=ir.tensor(a, name=n)) for n, a in held.items()}
    fixed = [constants["w"], constants["r"], constants["b"], None]
    kept = ("clip", "linear_before_reset", "input_forget", "hidden_size")
    attributes = {k: a.value for k, a in node.attributes.items() if k in kept}
    if "activations" in node.attributes:
        count = len(DEFAULTS[node.op_type])
        attributes["activations"] = list(attribute(node, "activations"))[direction * count :][
            :count
        ]
    last = [constants["p"]] if peepholes is not None else []
    made = ir.node(
        node.op_type,
        [inputs[0], *fixed, *inputs[1:], *last],
        attributes,
        num_outputs=1 + len(letters),
    )
    for value, name in zip(made.outputs, ("y", "y_h", "y_c"), strict=False):
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        inputs,
        list(made.outputs),
        nodes=[made],
        initializers=list(constants.values()),
        opset_imports={"": 17},
        name="step",
    )
    return open_model(ir.Model(graph, ir_version=8), session_options(1, optimise=False))
