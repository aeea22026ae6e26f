# SPDX-License-Identifier: Apache-2.0
"""Random cases: a graph, a recipe, a target and data, drawn by Hypothesis, so that they shrink."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

import qcompile
from qcompile import targets
from tests.robustness import random_ops as ops
from tests.robustness import random_shape_ops as shape_ops
from tests.robustness.random_graphs import BATCH, RandomNet

PRESETS = (
    *("w8a8", "w8a8", "w8a8", "w4a8", "w3a8", "w2a8", "w1a8", "w8a8-dynamic", "w4a8-dynamic"),
    *("w4a4-dynamic", "w4a16", "w8a16", "w3a16", "w5a8", "w4a4"),
)
OPS = (
    *(ops.conv,) * 6,
    *(ops.matmul,) * 3,
    *(ops.arithmetic,) * 5,
    *(ops.unary,) * 4,
    *(ops.gemm, ops.conv_transpose, ops.product_of_values, ops.embedding),
    *(shape_ops.concat,) * 2,
    *(shape_ops.pool,) * 3,
    *(shape_ops.split, shape_ops.slice_, shape_ops.pad, shape_ops.transpose, shape_ops.reshape),
    *(shape_ops.unsqueeze, shape_ops.squeeze, shape_ops.gather, shape_ops.resize),
    *(shape_ops.softmax, shape_ops.layer_norm, shape_ops.batch_norm),
)


MOST_OPS = 12


@dataclass(frozen=True)
class Case:
    """What is handed to qcompile.compile."""

    net: RandomNet
    target: str
    recipe: qcompile.Recipe
    has_data: bool

    @property
    def data(self) -> dict[str, Any] | None:
        """Calibration data."""
        count = 8 if self.net.has_free_batch else BATCH
        return self.net.feed(count) if self.has_data else None


# An op and the seed of what it decides: either can be cut or made smaller alone.
STEP = st.tuples(st.sampled_from(OPS), st.integers(0, 255))


@st.composite
def graphs(draw: st.DrawFn) -> RandomNet:
    """A graph of at least one product."""
    first = draw(st.sampled_from((ops.matmul, ops.conv, *OPS)))
    steps = draw(st.lists(STEP, max_size=MOST_OPS - 1))
    net = RandomNet(draw(st.integers(0, 255)))
    side = draw(st.sampled_from((4, 6, 7, 8)))
    sources = ((3, side, side), (8, side, side + 1), (4, 16), (5, 24), (32,), (16, side))
    net.source(draw(st.sampled_from(sources)))
    for op, seed in ((first, 0), *steps):
        net.draw.seed(seed)
        op(net)
    if not any(n.op_type in ("Conv", "MatMul", "Gemm") for n in net.nodes):
        ops.matmul(net)
    net.close()
    return net


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A graph with a preset that it may have, a target and perhaps data."""
    # Libraries take a few operators only: tests/networks has random graphs of those.
    names = tuple(t.name for t in targets.TARGETS.values() if t.compiler is None)
    target = draw(st.sampled_from(names))
    fits = [p for p in PRESETS if target == "cpu" or "a4" not in p]  # ONNX Runtime has 8 bits
    net, preset = draw(graphs()), draw(st.sampled_from(fits))
    is_static = qcompile.recipe.Preset.parse(preset).activation == "static"
    has_data = is_static or draw(st.integers(0, 4)) > 2
    return Case(net, target, qcompile.Recipe(preset=preset), has_data)
