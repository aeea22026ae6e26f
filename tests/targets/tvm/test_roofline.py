# SPDX-License-Identifier: Apache-2.0
"""The roofline of a T4 by hand, and what the model of tiles must not get wrong."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile.integer_graph import CodeMap, Conv, MaxPool
from qcompile.numerics.requantize import Dyadic
from qcompile.targets.tvm.cuda_conv import Shapes
from qcompile.targets.tvm.roofline import T4, blocks_per_sm, choose_tile, model_seconds, roof
from qcompile.targets.tvm.tile import Tile, tiles
from tests.targets.tvm.nets import window
from tests.targets.tvm.resnets import PUBLISHED_MS, PUBLISHED_NETWORK_MS, resnet

ONE = Dyadic(np.ones(1, np.int32), np.ones(1, np.int32))


def layer(bits: int, size: int, C: int, N: int, kernel: int = 3) -> Conv:
    x, y = CodeMap("x", (size, size, C), bits), CodeMap("y", (size, size, N), bits)
    weight = np.zeros((N, kernel, kernel, C), np.int8)
    return Conv(x, y, weight, np.zeros(N, np.int32), ONE, window(kernel), bits)


def test_a_compute_bound_layer_by_hand() -> None:
    found = roof(layer(8, 56, 64, 64), batch=8)
    assert found.ops == 2 * 8 * 56 * 56 * 64 * 64 * 9
    assert found.num_bytes == 2 * 8 * 56 * 56 * 64 + 64 * 64 * 9 + 12 * 64
    assert found.compute_seconds == pytest.approx(found.ops / 130e12)
    assert found.memory_seconds == pytest.approx(found.num_bytes / 320e9)
    assert (found.bound, found.seconds) == ("compute", found.compute_seconds)


def test_four_bits_halve_both_roofs() -> None:
    wide, narrow = roof(layer(8, 28, 128, 128), 8), roof(layer(4, 28, 128, 128), 8)
    assert narrow.compute_seconds == pytest.approx(wide.compute_seconds / 2)
    assert narrow.num_bytes - 12 * 128 == (wide.num_bytes - 12 * 128) // 2


def test_a_pool_is_bound_by_memory() -> None:
    x, y = CodeMap("x", (56, 56, 64)), CodeMap("y", (28, 28, 64))
    found = roof(MaxPool(x, y, window(2, 2, 0)), 1)
    assert (found.ops, found.bound) == (0, "memory")
    assert found.num_bytes == 64 * (56 * 56 + 28 * 28)


def test_residency_is_the_least_of_its_limits() -> None:
    assert blocks_per_sm(Tile(1, 1, 1, 1, 4)) == T4.blocks
    assert blocks_per_sm(Tile(2, 2, 8, 4, 16)) == 64 * 1024 // Tile(2, 2, 8, 4, 16).shared_bytes
    assert blocks_per_sm(Tile(2, 4, 4, 4, 4), registers=255) == 65_536 // (255 * 256)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("size", "C", "N"), [(56, 64, 64), (14, 256, 256), (7, 512, 512)])
def test_no_tile_beats_the_roofline(bits: int, size: int, C: int, N: int) -> None:
    node = layer(bits, size, C, N)
    times = [model_seconds(Shapes(node, 8, tile)) for tile in tiles()]
    assert min(times) >= roof(node, 8).seconds
    assert min(times) == model_seconds(Shapes(node, 8, choose_tile(node, 8)))
    assert max(times) > 4 * min(times), "the choice matters"


@pytest.mark.parametrize("bits", [4, 8])
def test_no_published_time_is_below_the_roofline(bits: int) -> None:
    """HAWQ-V3's times of ResNet-18 on a T4; the roofline is a limit, so theirs keep it."""
    graph, published = resnet(18, 8, bits), PUBLISHED_MS[bits]
    roofs = {node.y.name: roof(node, 8).seconds for node in graph.nodes}
    assert len(published) == 19 and published.keys() <= roofs.keys()
    assert all(roofs[name] * 1000 <= ms for name, ms in published.items())
    for depth in (18, 50):
        whole = sum(roof(node, 8).seconds for node in resnet(depth, 8, bits).nodes)
        assert whole * 1000 <= PUBLISHED_NETWORK_MS[(depth, bits)]


def test_a_roofline_that_is_too_high_would_be_seen() -> None:
    """With a fortieth of the peak, some published times would lie below."""
    slow = replace(T4, int8_ops=T4.int8_ops / 40)
    roofs = {node.y.name: roof(node, 8, slow).seconds for node in resnet(18, 8, 8).nodes}
    assert any(roofs[name] * 1000 > ms for name, ms in PUBLISHED_MS[8].items())


def test_the_layers_are_those_of_resnet_18() -> None:
    """Products and weights of the published layers, as that repository lists them."""
    nodes = {node.y.name: node for node in resnet(18, 8, 8).nodes}
    found = [nodes[name] for name in PUBLISHED_MS[8]]
    assert all(isinstance(node, Conv) for node in found)
    sizes = [node.weight.size for node in found if isinstance(node, Conv)]
    assert sizes[:7] == [36864] * 4 + [73728, 147456, 8192]
    assert sizes[7:] == [147456] * 2 + [294912, 589824, 32768, 589824, 589824, 1179648] + [
        *(2359296, 131072, 2359296, 2359296)
    ]
    products = [node.num_products for node in found if isinstance(node, Conv)]
    assert products[:7] == [115605504] * 4 + [57802752, 115605504, 6422528]
