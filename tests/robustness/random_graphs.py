# SPDX-License-Identifier: Apache-2.0
"""Random graphs: the ops of random_ops.py put one after another."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from tests.pipeline.nets import Net

BATCH = 3  # while it is built; "batch" where the graph leaves it free
_SEEN_AS_OUTPUT = 0.06


class RandomNet(Net):
    """A net that knows the shape of every value; axis 0 is always the batch."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        super().__init__(opset=self.draw.choice((14, 17, 20)), seed=seed)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.has_free_batch = self.draw.random() < 0.7
        self.num_names = 0

    def __repr__(self) -> str:
        """The graph as text: what Hypothesis shows of a failure."""
        return f"\n{onnx.printer.to_text(self.proto(check=False).graph)}"

    def name(self, word: str) -> str:
        """A new name."""
        self.num_names += 1
        return f"{word}{self.num_names}"

    def source(self, dims: tuple[int, ...], dtype: int = TensorProto.FLOAT) -> str:
        """A graph input [BATCH, *dims]."""
        name = self.name("input")
        self.input(name, ["batch" if self.has_free_batch else BATCH, *dims], dtype)
        self.shapes[name] = (BATCH, *dims)
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """An initializer."""
        return self.array(self.name("constant"), np.asarray(values, dtype))

    def normal(self, *dims: int) -> str:
        """An initializer of normal numbers."""
        return self.constant(self.rng.standard_normal(dims))

    def op(self, op_type: str, *inputs: str, num_outputs: int = 1, **attributes: Any) -> list[str]:
        """A node; its outputs have the shapes that ONNX infers."""
        names = [self.name(op_type.lower()) for _ in range(num_outputs)]
        node = helper.make_node(op_type, list(inputs), names, f"/{names[0]}", **attributes)
        self.nodes.append(node)
        self.shapes.update(self._inferred(node))
        return names

    def _inferred(self, node: onnx.NodeProto) -> dict[str, tuple[int, ...]]:
        made = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n])
            for n in node.input
            if n in self.shapes
        ]
        held = [
            numpy_helper.from_array(self.weights[n], n) for n in node.input if n in self.weights
        ]
        ints = {v.name for v in self.inputs if v.type.tensor_type.elem_type == TensorProto.INT64}
        for value in made:
            if value.name in ints:
                value.type.tensor_type.elem_type = TensorProto.INT64
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
        graph = helper.make_graph([node], "one", made, outputs, held)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        return {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in inferred.graph.output
        }

    def pick(self, fits: Callable[[tuple[int, ...]], bool]) -> str | None:
        """A value whose shape fits, late ones more often."""
        found = [n for n, shape in self.shapes.items() if fits(shape) and self._is_float(n)]
        if not found:
            return None
        return self.draw.choice(found[-3:] if self.draw.random() < 0.8 else found)

    def _is_float(self, name: str) -> bool:
        return not any(
            v.name == name and v.type.tensor_type.elem_type == TensorProto.INT64
            for v in self.inputs
        )

    def feed(self, count: int, seed: int = 1) -> dict[str, NDArray]:
        """Random data for the inputs; tokens are below 11."""
        rng = np.random.default_rng(seed)
        made: dict[str, NDArray] = {}
        for value in self.inputs:
            dims = self.shapes[value.name][1:]
            if self._is_float(value.name):
                made[value.name] = rng.standard_normal((count, *dims)).astype(np.float32)
            else:
                made[value.name] = rng.integers(0, 11, (count, *dims))
        return made

    def close(self) -> None:
        """What nobody reads is an output, and some of the others."""
        read = {n for node in self.nodes for n in node.input}
        made = [n for node in self.nodes for n in node.output if n in self.shapes]
        kept = [n for n in made if n not in read or self.draw.random() < _SEEN_AS_OUTPUT]
        for name in kept:
            shape = self.shapes[name]
            self.output(name, ["batch" if self.has_free_batch else BATCH, *shape[1:]])
