# SPDX-License-Identifier: Apache-2.0
"""Blocks of a network: parts of a tape that one value alone leads into and one leads out of.

A value is a cut where no other value made before it is read behind it: the ends of residual blocks,
of inverted bottlenecks, of attention with its shortcut, and of every layer of a plain chain. A
block reaches from cut to cut and has at least one product; what follows it without one, as its
Relu, is part of it. Cuts are values that the float model has too, before their quantizers.
"""

from dataclasses import dataclass

import onnx_ir as ir

from qcompile.products import end_of_bias
from qcompile.reverse import Step, Tape

_PRODUCTS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True)
class Block:
    """tape: its steps alone; entries: what it reads of others. layers: sums of its products with
    their biases, without the block's output.
    """

    tape: Tape
    output: str
    layers: tuple[str, ...]


def blocks_of(tape: Tape, normalised: ir.Model) -> list[Block]:
    """In the order of the graph; all steps, each in one block."""
    floats = {v.name or "" for node in normalised.graph for v in node.outputs}
    sums = {n.name or "": _sum_of(n) for n in normalised.graph if n.op_type in _PRODUCTS}
    parts: list[list[Step]] = []
    start = 0
    for end in _cuts(tape, floats):
        steps = tape.steps[start:end]
        has_product = any(_is_weighted(tape, step) for step in steps)
        if parts and not (has_product and any(_is_weighted(tape, s) for s in parts[-1])):
            parts[-1] += steps
        else:
            parts.append(list(steps))
        start = end
    return [_block(tape, steps, sums, floats) for steps in parts]


def _cuts(tape: Tape, floats: set[str]) -> list[int]:
    """Numbers of steps before each cut; the last one is the number of all steps."""
    last = {name: i for i, step in enumerate(tape.steps) for name in step.inputs}
    last |= dict.fromkeys(tape.outputs, len(tape.steps))
    live: set[str] = set()
    cuts = []
    for i, step in enumerate(tape.steps):
        live = {name for name in live if last[name] > i}
        if last.get(step.output, -1) > i:
            live.add(step.output)
        is_end = i + 1 == len(tape.steps)
        if is_end or (live == {step.output} and step.output in floats):
            cuts.append(i + 1)
    return cuts


def _block(tape: Tape, steps: list[Step], sums: dict[str, str], floats: set[str]) -> Block:
    made = [step.output for step in steps]
    read = [name for step in steps for name in step.inputs if name]
    weights = {n: node for n, node in tape.weights.items() if n in read}
    biases = {n: value for n, value in tape.biases.items() if n in read}
    scales = {n: nodes for n, nodes in tape.scales.items() if n in read}
    known = {*made, *weights, *biases, *scales, *tape.constants}
    output = next((name for name in reversed(made) if name in floats), None)
    if output is None:
        raise NotImplementedError("a block without a value of the float model")
    layers = [
        sums[s.node.name or ""] for s in steps if s.node.name in sums and _is_weighted(tape, s)
    ]
    layers = [name for name in dict.fromkeys(layers) if name in made and name != output]
    entries = [name for name in dict.fromkeys(read) if name not in known]
    wanted = [output, *layers]
    own = Tape(steps, weights, biases, scales, entries, wanted, tape.constants)
    return Block(own, output, tuple(layers))


def _is_weighted(tape: Tape, step: Step) -> bool:
    """Whether it is a product of a weight, perhaps through a Transpose."""
    if step.node.op_type not in _PRODUCTS:
        return False
    turned = {s.output: s.inputs[0] for s in tape.steps if s.node.op_type == "Transpose"}
    return turned.get(step.inputs[1], step.inputs[1]) in tape.weights


def _sum_of(node: ir.Node) -> str:
    value = node.outputs[0]
    end = end_of_bias(value) if node.op_type == "MatMul" else None
    return (end or value).name or ""
