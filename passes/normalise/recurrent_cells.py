# SPDX-License-Identifier: Apache-2.0
"""One step of GRU, RNN and LSTM as the body of a Scan: the equations of the ONNX operators.

Rows of W and R: GRU z, r, h; LSTM i, o, f, c; RNN one. The product of the input, with all biases
that are added to it anyway, comes in from outside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import new_node

GATES = {"GRU": 3, "RNN": 1, "LSTM": 4}
ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")  # those without parameters
DEFAULTS = {
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}


def body_input(name: str, dims: list[Any], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    """An input of the body."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


@dataclass
class Step:
    """Nodes and constants of one body; names begin with `path`."""

    path: str
    props: dict[str, str]  # metadata of the nodes
    nodes: list[ir.Node] = field(default_factory=list)
    constants: dict[str, ir.Value] = field(default_factory=dict)

    def op(
        self, op_type: str, inputs: Sequence[ir.Value | None], output: str, **attributes: Any
    ) -> ir.Value:
        """One more node."""
        name = f"{self.path}/{output}"
        node = new_node(op_type, inputs, f"{name}/{op_type}", name, **attributes)
        node.metadata_props.update(self.props)
        self.nodes.append(node)
        return node.outputs[0]

    def parts(self, value: ir.Value, names: Sequence[str], sizes: Sequence[int]) -> list[ir.Value]:
        """The value cut along its last axis."""
        each = self.constant(f"{names[0]}_sizes", np.array(sizes, np.int64))
        node = ir.node("Split", [value, each], {"axis": -1}, num_outputs=len(names))
        node.name = f"{self.path}/{names[0]}/Split"
        for output, name in zip(node.outputs, names, strict=True):
            output.name, output.type = f"{self.path}/{name}", ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(node)
        return list(node.outputs)

    def constant(self, name: str, tensor: NDArray | ir.TensorProtocol) -> ir.Value:
        """One more initializer."""
        full = f"{self.path}/{name}"
        held = ir.tensor(tensor, name=full) if isinstance(tensor, np.ndarray) else tensor
        shape = ir.Shape(held.shape.numpy())
        value = ir.Value(name=full, type=ir.TensorType(held.dtype), shape=shape, const_value=held)
        self.constants[full] = value
        return value

    def product(self, x: ir.Value, weight: ir.TensorProtocol, name: str) -> ir.Value:
        """x · wᵀ."""
        turned = self.op("Transpose", [self.constant(f"{name}_weight", weight)], f"{name}_turned")
        turned.producer().attributes["perm"] = ir.AttrInt64s("perm", [1, 0])  # type: ignore[union-attr]
        return self.op("MatMul", [x, turned], name)


@dataclass(frozen=True)
class Cell:
    """What a step needs of the node, for one direction.

    recurrence [gates · hidden, hidden]; bias [gates · hidden] of the recurrence, peepholes [3 ·
    hidden]; activations by name; clip: the bound of their inputs.
    """

    op_type: str
    hidden: int
    recurrence: ir.TensorProtocol
    bias: NDArray[np.float32] | None
    peepholes: NDArray[np.float32] | None
    activations: tuple[str, ...]
    clip: float | None
    linear_before_reset: bool
    input_forget: bool

    def rows(self, first: int, last: int) -> ir.TensorProtocol:
        """The recurrence of the gates first … last − 1, read when needed."""
        tensor, h = self.recurrence, self.hidden
        return ir.LazyTensor(
            lambda: ir.tensor(np.ascontiguousarray(tensor.numpy()[first * h : last * h])),
            tensor.dtype,
            ir.Shape([(last - first) * h, h]),
        )


def inner_bias(cell_op: str, *, linear_before_reset: bool, hidden: int) -> slice:
    """The part of the recurrence's bias that must be added inside: that which r multiplies."""
    return slice(2 * hidden, 3 * hidden) if cell_op == "GRU" and linear_before_reset else slice(0)


def write_step(step: Step, cell: Cell, states: Sequence[ir.Value], x: ir.Value) -> list[ir.Value]:
    """The states after the step, the output first; x [batch, gates · hidden]."""
    writers: dict[str, Callable[..., list[ir.Value]]] = {"GRU": _gru, "RNN": _rnn, "LSTM": _lstm}
    return writers[cell.op_type](step, cell, states, x)


def _activated(step: Step, cell: Cell, index: int, value: ir.Value, name: str) -> ir.Value:
    if cell.clip is not None:
        low = step.constant(f"{name}_low", np.array(-cell.clip, np.float32))
        high = step.constant(f"{name}_high", np.array(cell.clip, np.float32))
        value = step.op("Clip", [value, low, high], f"{name}_clipped")
    return step.op(cell.activations[index], [value], name)


def _rnn(step: Step, cell: Cell, states: Sequence[ir.Value], x: ir.Value) -> list[ir.Value]:
    product = step.product(states[0], cell.rows(0, 1), "product")
    return [_activated(step, cell, 0, step.op("Add", [product, x], "sum"), "h_new")]


def _gru(step: Step, cell: Cell, states: Sequence[ir.Value], x: ir.Value) -> list[ir.Value]:
    h, size = states[0], cell.hidden
    x_gates, x_hidden = step.parts(x, ["x_gates", "x_hidden"], [2 * size, size])
    if cell.linear_before_reset:
        product = step.product(h, cell.rows(0, 3), "product")
        if cell.bias is not None:
            bias = np.concatenate([np.zeros(2 * size, np.float32), cell.bias])
            product = step.op("Add", [product, step.constant("bias", bias)], "biased")
        h_gates, h_hidden = step.parts(product, ["h_gates", "h_hidden"], [2 * size, size])
    else:
        h_gates = step.product(h, cell.rows(0, 2), "product")
    gates = _activated(step, cell, 0, step.op("Add", [h_gates, x_gates], "gates_sum"), "gates")
    z, r = step.parts(gates, ["z", "r"], [size, size])
    if cell.linear_before_reset:
        reset = step.op("Mul", [r, h_hidden], "reset")
    else:
        reset = step.product(step.op("Mul", [r, h], "reset_h"), cell.rows(2, 3), "reset")
    other = _activated(step, cell, 1, step.op("Add", [reset, x_hidden], "other_sum"), "other")
    change = step.op("Mul", [z, step.op("Sub", [h, other], "difference")], "change")
    return [step.op("Add", [other, change], "h_new")]


def _lstm(step: Step, cell: Cell, states: Sequence[ir.Value], x: ir.Value) -> list[ir.Value]:
    (h, c), size = states, cell.hidden
    total = step.op("Add", [step.product(h, cell.rows(0, 4), "product"), x], "sum")
    if cell.peepholes is None and not cell.input_forget:
        gates, cand = step.parts(total, ["iof_sum", "c_sum"], [3 * size, size])
        gates = _activated(step, cell, 0, gates, "iof")
        i, o, f = step.parts(gates, ["i", "o", "f"], [size] * 3)
    else:
        i, o, f, cand = step.parts(total, ["i_sum", "o_sum", "f_sum", "c_sum"], [size] * 4)
        i = _activated(step, cell, 0, _peeped(step, cell, 0, i, c, "i"), "i")
        if cell.input_forget:
            one = step.constant("one", np.array(1, np.float32))
            f = step.op("Sub", [one, i], "f")
        else:
            f = _activated(step, cell, 0, _peeped(step, cell, 2, f, c, "f"), "f")
    cand = _activated(step, cell, 1, cand, "candidate")
    kept, added = step.op("Mul", [f, c], "kept"), step.op("Mul", [i, cand], "added")
    c_new = step.op("Add", [kept, added], "c_new")
    if cell.peepholes is not None or cell.input_forget:
        o = _activated(step, cell, 0, _peeped(step, cell, 1, o, c_new, "o"), "o")
    shown = step.op(cell.activations[2], [c_new], "shown")
    return [step.op("Mul", [o, shown], "h_new"), c_new]


def _peeped(step: Step, cell: Cell, gate: int, value: ir.Value, c: ir.Value, name: str) -> ir.Value:
    """The gate's sum with its peephole, P · c; P has the rows i, o, f."""
    if cell.peepholes is None:
        return value
    weight = cell.peepholes[gate * cell.hidden : (gate + 1) * cell.hidden]
    seen = step.op("Mul", [c, step.constant(f"{name}_peephole", weight)], f"{name}_seen")
    return step.op("Add", [value, seen], f"{name}_peeped")
