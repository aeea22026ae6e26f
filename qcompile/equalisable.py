# SPDX-License-Identifier: Apache-2.0
"""Find channels of maps that scales pass between convolutions of any kind, behind Relu.

Cross-layer equalisation (Nagel et al. 2019, Data-Free Quantization, section 4.1): channel c of
what one convolution writes is divided by s and multiplied where it is read, W2[:, c] · s. Windows
see whole channels, padding of zeros stays zero, and a depthwise convolution has a channel of its
own for each, so unlike rotations scales pass all of them. The paper equalises the ranges of the
weights of both and goes over all pairs until nothing changes; here that is one candidate beside
scales from the calibrated inputs, each edge is decided once, and the error of its products decides.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import constant, input_of, is_op, rank, static_shape
from qcompile.products import is_depthwise, weight_of
from qcompile.rotatable_maps import MapWalk, is_dense, is_narrow
from qcompile.rotation_edge import Constant, Edge, Part, Reader, Writer, shown


def equal_edges(graph: ir.Graph) -> list[Edge]:
    """Every edge that a window or a depthwise convolution reads or writes; no refused ones."""
    seen: set[ir.Value] = set()
    found = []
    for node in graph:
        value = node.inputs[0] if is_dense(node) or _is_depthwise(node) else None
        if value is None or value in seen or value.producer() is None:
            continue
        walk = _Equalising(graph, value)
        seen |= walk.seen
        nodes = [r.node for r in walk.edge.readers] + [w.node for w in walk.edge.writers]
        is_new = any(_is_depthwise(n) for n in nodes) or not all(
            is_narrow(r.node) for r in walk.edge.readers
        )
        if is_new and not walk.edge.reason:
            found.append(walk.edge)
    return found


def weight_ranges(edge: Edge) -> NDArray[np.float64]:
    """The largest |w| of each channel [block] in the convolutions that write it."""
    found = np.zeros(edge.block)
    for writer in edge.writers:
        weight = constant(weight_of(writer.node))
        assert weight is not None
        found = np.maximum(found, np.abs(weight).reshape(len(weight), -1).max(1))
    return found


class _Equalising(MapWalk):
    """One edge; windows and depthwise convolutions are on it, and only scales pass."""

    def __init__(self, graph: ir.Graph, start: ir.Value) -> None:
        super().__init__(graph, start)
        self.edge.is_equal = True
        maker = start.producer()
        if maker is not None:
            self.edge.bend = self.edge.bend or shown(maker)
        if not self.edge.writers and not self.edge.reason:
            self.edge.reason = "nothing writes it"

    def _reads(self, node: ir.Node) -> bool:
        if not is_dense(node) and not _is_depthwise(node):
            return False
        self.edge.readers.append(Reader(node, None))
        return True

    def _writes(self, node: ir.Node) -> bool:
        if not _is_depthwise(node):
            return False
        whole = Part(0, self.edge.width)
        self.edge.writers.append(Writer(node, whole))
        if input_of(node, 2) is not None:
            self.edge.constants.append(Constant(node, 2, whole))
        return True


def _is_depthwise(node: ir.Node) -> bool:
    """A Conv of maps with a channel of its own for each, and constants."""
    weight = weight_of(node) if is_op(node, "Conv") else None
    if weight is None or weight.dtype != ir.DataType.FLOAT or rank(weight) != 4:
        return False
    bias, dims = input_of(node, 2), static_shape(weight)
    is_whole = bias is None or constant(bias) is not None
    return is_whole and dims is not None and is_depthwise(node, dims)
