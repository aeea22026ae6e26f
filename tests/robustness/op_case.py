# SPDX-License-Identifier: Apache-2.0
"""A node of com.qcompile with its inputs, for random tests."""

import dataclasses
from typing import Any

import onnx
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import TensorProto

from tests.runtime_ops import single_op as one


@dataclasses.dataclass
class Case:
    """One node and what it is run on; a graph input is `fed`, other inputs are initializers."""

    op: str
    inputs: list[NDArray | None]
    attributes: dict[str, Any]
    fed: tuple[int, ...] = (0,)
    num_outputs: int = 1
    dims: dict[int, list[Any]] = dataclasses.field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The model, whose output types are left to the library."""
        empty = [name for name, v in self.attributes.items() if isinstance(v, list) and not v]
        given = {name: v for name, v in self.attributes.items() if name not in empty}
        outputs = [(TensorProto.FLOAT, 1)] * self.num_outputs
        model = one.build(self.op, self.inputs, given, outputs, self.fed, self.dims)
        for name in empty:
            added = onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS)
            model.graph.node[0].attribute.append(added)
        for output in model.graph.output:
            output.ClearField("type")
        return model

    def feed(self) -> dict[str, NDArray]:
        """What the graph inputs get."""
        found = ((i, self.inputs[i]) for i in self.fed if i < len(self.inputs))
        return {f"input_{i}": x for i, x in found if x is not None}


def pick(rng: Generator, items: Any) -> Any:
    """One of them."""
    return items[int(rng.integers(len(items)))]
