# SPDX-License-Identifier: Apache-2.0
"""Random cases, named by their seed: a graph, a recipe, a target and data."""

import random
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Case:
    """What is handed to qcompile.compile."""

    net: RandomNet
    target: str
    recipe: qcompile.Recipe
    data: dict[str, Any] | None


def random_graph(seed: int, num_ops: int | None = None) -> RandomNet:
    """The graph of that seed, or the start of it."""
    net = RandomNet(seed)
    draw = net.draw
    side = draw.choice((4, 6, 7, 8))
    net.source(
        draw.choice(((3, side, side), (8, side, side + 1), (4, 16), (5, 24), (32,), (16, side)))
    )
    wanted = draw.randrange(2, 13)
    for i in range(wanted if num_ops is None else min(num_ops, wanted)):
        draw.choice(OPS if i else (ops.conv, ops.matmul, *OPS))(net)
    if not any(n.op_type in ("Conv", "MatMul", "Gemm") for n in net.nodes):
        ops.matmul(net)
    net.close()
    return net


def random_case(seed: int, num_ops: int | None = None) -> Case:
    """The case of that seed."""
    net = random_graph(seed, num_ops)
    rng = random.Random(-seed - 1)
    preset = rng.choice(PRESETS)
    is_static = qcompile.recipe.Preset.parse(preset).activation == "static"
    has_data = is_static or rng.random() < 0.4
    data = net.feed(8 if net.has_free_batch else BATCH) if has_data else None
    target = rng.choice(tuple(targets.TARGETS))
    return Case(net, target, qcompile.Recipe(preset=preset), data)
