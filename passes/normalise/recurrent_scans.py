# SPDX-License-Identifier: Apache-2.0
"""The nodes round the steps of a split recurrent node: its input's product, Scans, first states."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    input_of,
    new_node,
)
from qcompile.passes.normalise.recurrent_cells import (
    DEFAULTS,
    Cell,
    Step,
    body_input,
    inner_bias,
    write_step,
)

W, R, B, LENGTHS, H0, C0, P = 1, 2, 3, 4, 5, 6, 7
PART_OF = "qcompile.part_of"  # metadata of what a split makes: the name and op of the node


@dataclass
class Scans:
    """The nodes round the Scans of one recurrent node."""

    node: ir.Node
    graph: ir.Graph

    def __post_init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.name = self.node.name or ""
        self.props = {PART_OF: f"{self.name}\n{self.node.op_type}"}
        weight, recurrence = self.node.inputs[W], self.node.inputs[R]
        assert weight is not None and recurrence is not None and recurrence.shape is not None
        self.count, rows, self.hidden = (int(d) for d in recurrence.shape)  # type: ignore[arg-type]
        self.rows, self.weight, self.recurrence = rows, weight, recurrence
        x = self.node.inputs[0]
        assert x is not None
        self.x, dims = x, x.shape
        self.steps: Any = None if dims is None else dims[0]
        self.batch: Any = None if dims is None else dims[1]

    def _op(
        self, op_type: str, inputs: list[ir.Value | None], output: str, **more: Any
    ) -> ir.Value:
        name = f"{self.name}/{output}"
        node = new_node(op_type, inputs, f"{name}/{op_type}", name, **more)
        node.metadata_props.update(self.props)
        self.nodes.append(node)
        return node.outputs[0]

    def _constant(self, name: str, array: NDArray) -> ir.Value:
        return add_initializer(self.graph, f"{self.name}/{name}", array)

    def summed(self) -> list[ir.Value]:
        """Input times W, and the biases, of each direction: [steps, batch, gates · hidden]."""
        tensor, size = self.weight.const_value, self.count * self.rows
        assert tensor is not None
        flat = ir.LazyTensor(
            lambda: ir.tensor(tensor.numpy().reshape(size, -1)),
            tensor.dtype,
            ir.Shape([size, int(self.weight.shape[2])]),  # type: ignore[index, arg-type]
        )
        weight = add_initializer(self.graph, f"{self.name}/input_weight", flat)
        turned = self._op("Transpose", [weight], "input_turned", perm=[1, 0])
        total = self._op("MatMul", [self.x, turned], "input", shape=self._shape(size))
        bias = self._bias()
        if bias is not None:
            added: list[ir.Value | None] = [total, self._constant("input_bias", bias)]
            total = self._op("Add", added, "input_sum", shape=self._shape(size))
        if self.count == 1:
            return [total]
        node = ir.node(
            "Split",
            [total, self._constant("sizes", np.full(2, self.rows))],
            {"axis": -1},
            num_outputs=2,
        )
        node.name = f"{self.name}/directions/Split"
        for i, output in enumerate(node.outputs):
            output.name, output.shape = f"{self.name}/input_{i}", self._shape(self.rows)
            output.type = ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(node)
        return list(node.outputs)

    def _shape(self, last: int) -> ir.Shape | None:
        return None if self.steps is None else ir.Shape([self.steps, self.batch, last])

    def _bias(self) -> NDArray[np.float32] | None:
        """W's bias and R's, but for the part that is added inside: [directions · rows]."""
        held = constant(input_of(self.node, B))
        if held is None:
            return None
        outer, inner = held[:, : self.rows].copy(), held[:, self.rows :].copy()
        inner[:, self._inner()] = 0
        return np.asarray((outer + inner).reshape(-1))

    def _inner(self) -> slice:
        before = bool(attribute(self.node, "linear_before_reset", 0))
        return inner_bias(self.node.op_type, linear_before_reset=before, hidden=self.hidden)

    def _cell(self, direction: int) -> Cell:
        node, op_type = self.node, self.node.op_type
        tensor = self.recurrence.const_value
        assert tensor is not None
        names = tuple(attribute(node, "activations", ())) or DEFAULTS[op_type] * self.count
        count, inner = len(DEFAULTS[op_type]), self._inner()
        bias, peepholes = constant(input_of(node, B)), constant(input_of(node, P))
        has_bias = bias is not None and inner != slice(0)
        clip = attribute(node, "clip")
        return Cell(
            op_type,
            self.hidden,
            ir.LazyTensor(
                lambda: ir.tensor(tensor.numpy()[direction]),
                tensor.dtype,
                ir.Shape([self.rows, self.hidden]),
            ),
            bias[direction, self.rows :][inner] if bias is not None and has_bias else None,
            None if peepholes is None or op_type != "LSTM" else peepholes[direction],
            names[direction * count : (direction + 1) * count],
            None if not clip else float(clip),
            bool(attribute(node, "linear_before_reset", 0)),
            bool(attribute(node, "input_forget", 0)),
        )

    def direction(self, index: int, x: ir.Value) -> list[ir.Value]:
        """Y [steps, batch, hidden], then the last states of one direction."""
        is_reverse = index == 1 or attribute(self.node, "direction", "forward") == "reverse"
        name = f"{self.name}/scan" + (f"_{index}" if self.count > 1 else "")
        step, hidden = Step(f"{name}/body", self.props), self.hidden
        letters = "hc" if self.node.op_type == "LSTM" else "h"
        states = [body_input(f"{step.path}/{s}", [self.batch, hidden]) for s in letters]
        x_now = body_input(f"{step.path}/x", [self.batch, self.rows])
        after = write_step(step, self._cell(index), states, x_now)
        shown, slices, inputs = after[0], [x], [*states, x_now]
        lengths = input_of(self.node, LENGTHS)
        if lengths is not None:
            slices.append(self._within(lengths))
            inputs.append(body_input(f"{step.path}/within", [self.batch, 1], ir.DataType.BOOL))
            zero = step.constant("zero", np.array(0, np.float32))
            shown = step.op("Where", [inputs[-1], after[0], zero], "y_within")
            after = [
                step.op("Where", [inputs[-1], new, old], f"{s}_within")
                for s, new, old in zip(letters, after, states, strict=True)
            ]
        if shown is after[0]:
            shown = step.op("Identity", [shown], "y")
        for value in (*after, shown):
            value.shape = ir.Shape([self.batch, hidden])
        body = ir.Graph(inputs, [*after, shown], nodes=step.nodes, name="step")
        for value in step.constants.values():
            body.register_initializer(value)
        return self._scan(name, body, letters, index, slices, is_reverse=is_reverse)

    def _scan(
        self,
        name: str,
        body: ir.Graph,
        letters: str,
        index: int,
        slices: list[ir.Value],
        *,
        is_reverse: bool,
    ) -> list[ir.Value]:
        first = [self._first_state(s, index) for s in letters]
        attributes: dict[str, Any] = {"body": body, "num_scan_inputs": len(slices)}
        if is_reverse:
            attributes["scan_input_directions"] = [1] * len(slices)
            attributes["scan_output_directions"] = [1]
        node = ir.node("Scan", [*first, *slices], attributes, num_outputs=len(letters) + 1)
        node.name = name
        node.metadata_props.update(self.props)
        for output, what in zip(node.outputs, [*letters, "y"], strict=True):
            output.name, output.type = f"{name}/{what}", ir.TensorType(ir.DataType.FLOAT)
            dims = [self.batch, self.hidden]
            output.shape = ir.Shape([self.steps, *dims] if what == "y" else dims)
        self.nodes.append(node)
        return [node.outputs[-1], *node.outputs[:-1]]

    def _first_state(self, letter: str, index: int) -> ir.Value:
        """[batch, hidden]: what the node is given, or zeros."""
        given = input_of(self.node, H0 if letter == "h" else C0)
        tag = f"{letter}_{index}"
        if given is not None:
            which = self._constant(f"{tag}_direction", np.array(index, np.int64))
            return self._op("Gather", [given, which], f"{tag}_first", axis=0)
        if isinstance(self.batch, int):
            return self._constant(f"{tag}_zeros", np.zeros((self.batch, self.hidden), np.float32))
        dims = self._op("Shape", [self.x], f"{tag}_dims", dtype=ir.DataType.INT64)
        one = self._constant(f"{tag}_one", np.array([1], np.int64))
        batch = self._op("Gather", [dims, one], f"{tag}_batch", axis=0, dtype=ir.DataType.INT64)
        size = self._constant(f"{tag}_hidden", np.array([self.hidden], np.int64))
        shape = self._op("Concat", [batch, size], f"{tag}_shape", axis=0, dtype=ir.DataType.INT64)
        zeros = ir.tensor(np.zeros(1, np.float32))
        return self._op("ConstantOfShape", [shape], f"{tag}_first", value=zeros)

    def _within(self, lengths: ir.Value) -> ir.Value:
        """[steps, batch, 1]: whether the step is one of the sequence."""
        known = f"{self.name}/within"
        for node in self.nodes:
            if node.outputs[0].name == known:
                return node.outputs[0]
        int64 = ir.DataType.INT64
        zero, one = (self._constant(f"step_{n}", np.array(n, np.int64)) for n in (0, 1))
        dims = self._op("Shape", [self.x], "dims", dtype=int64)
        count = self._op("Gather", [dims, zero], "count", axis=0, dtype=int64)
        steps = self._op("Range", [zero, count, one], "steps", dtype=int64)
        column = self._constant("column", np.array([1, 2], np.int64))
        steps = self._op("Unsqueeze", [steps, column], "steps_column", dtype=int64)
        ends = self._op("Cast", [lengths], "ends", to=int(int64), dtype=int64)
        last = self._constant("last", np.array([1], np.int64))
        ends = self._op("Unsqueeze", [ends, last], "ends_row", dtype=int64)
        return self._op("Less", [steps, ends], "within", dtype=ir.DataType.BOOL)

    def joined(self, values: list[ir.Value], index: int) -> ir.Value:
        """The directions as one: Y [steps, directions, batch, hidden], or the last states."""
        axis = 1 if index == 0 else 0
        tag = ("y", "y_h", "y_c")[index]
        held = self._constant(f"{tag}_axis", np.array([axis], np.int64))
        parts = [self._op("Unsqueeze", [v, held], f"{tag}_{i}") for i, v in enumerate(values)]
        if len(parts) == 1:
            return parts[0]
        return self._op("Concat", [*parts], tag, axis=axis)
