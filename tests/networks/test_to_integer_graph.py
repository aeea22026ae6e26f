# SPDX-License-Identifier: Apache-2.0
"""A lowered integer-only model as an IntegerGraph: the integers of target cpu, all equal."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile import network_file, verify_network
from qcompile.deliver import _border
from qcompile.errors import InputError
from qcompile.integer_graph import Add, Conv, Excerpt, IntegerGraph, Lookup
from qcompile.network import Network
from qcompile.targets.tvm import run
from qcompile.targets.tvm.plan import code_kind
from qcompile.to_integer_graph import CURE, to_integer_graph
from tests.networks.nets import NETS, channels_last, grouped, projected, shortcut
from tests.pipeline.nets import Net, samples

Reference = Callable[..., qcompile.Artifact]
EACH = pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Compiles a net at a preset, once."""

    @cache
    def made(make: Callable[[], Net], preset: str = "w8a8") -> qcompile.Artifact:
        net, folder = make(), tmp_path_factory.mktemp(make.__name__)
        recipe = qcompile.Recipe(preset=preset, integer_only=True)
        return qcompile.compile(
            net.save(folder / "net.onnx"), recipe=recipe, calibration_data=samples(net, 16)
        )

    return made


def results(network: Network, graph: IntegerGraph, x: NDArray) -> NDArray:
    """The model's floats by numerics."""
    borders = (
        _border(border, shape, kind)
        for border, shape, kind in (
            (network.input, graph.input.shape, code_kind(graph.input)),
            (network.output, graph.output.shape, code_kind(graph.output)),
        )
    )
    given, made = borders
    return run.finish(graph.run(run.quantize(x, given))[graph.output.name], made)


@pytest.mark.parametrize(
    "preset", ["w8a8", "w4a4", *(pytest.param(p, marks=pytest.mark.slow) for p in ("w4a8", "w2a6"))]
)
@EACH
def test_equal_integers(make: Callable[[], Net], preset: str, reference: Reference) -> None:
    artifact = reference(make, preset)
    network = to_integer_graph(artifact.model(), "tvm-cpu", 1)
    x = samples(make(), 20, seed=5)["x"] * 1.5  # some beyond the calibrated range
    expected = qcompile.load(artifact.folder).run(None, {"x": x})[0]
    assert len(np.unique(expected)) > 15, "the test must see a range"
    np.testing.assert_array_equal(results(network, network.graph, x), expected)

    first = network.graph.nodes[0]
    assert isinstance(first, Conv)
    bias = first.bias + np.int32(first.scale.exponent[0])  # a twin, wrong by a few units
    bias[0] += 1 << 12
    broken = replace(network.graph, nodes=(replace(first, bias=bias), *network.graph.nodes[1:]))
    assert (results(network, broken, x) != expected).any()


def test_sums_and_cuts_join_other_kernels(reference: Reference) -> None:
    graph = to_integer_graph(reference(shortcut).model(), "t4", 4).graph
    kinds = [type(node).__name__ for node in graph.nodes]
    assert kinds == [
        "Conv",
        "MaxPool",
        "Conv",
        "Conv",
        "Excerpt",
        "Conv",
        "GlobalAveragePool",
        "Conv",
    ]
    assert [n.residual is not None for n in graph.nodes if isinstance(n, Conv)] == [
        *(False, False, True),
        *(True, False),
    ]
    (cut,) = (node for node in graph.nodes if isinstance(node, Excerpt))
    assert (cut.step, cut.before, cut.count) == ((2, 2, 1), (0, 0, 4), (5, 4, 12))
    assert graph.batch == 4


def test_a_difference_joins_with_its_sign(reference: Reference) -> None:
    network = to_integer_graph(reference(projected).model(), "t4", 1)
    assert not any(isinstance(node, Add) for node in network.graph.nodes)
    signs = [
        np.sign(n.residual.scale.a)
        for n in network.graph.nodes
        if isinstance(n, Conv) and n.residual
    ]
    assert signs == [1, -1]
    joined = network.sources[network.graph.nodes[1].y.name]
    assert len(joined) == 1
    assert {"/sum/Add", "/left/Conv"} <= set(network.sources[network.graph.nodes[2].y.name])


def test_codes_of_4_bits_meet_weights_of_8_as_bytes(reference: Reference) -> None:
    """The first and the last layer have 8-bit weights, the others multiply 4 bits by 4."""
    graph = to_integer_graph(reference(shortcut, "w4a4").model(), "t4", 1).graph
    convs = [node for node in graph.nodes if isinstance(node, Conv)]
    assert [(c.x.bits, c.weight_bits) for c in convs] == [(8, 8), *[(4, 4)] * 3, (8, 8)]
    assert graph.output.bits == 32


def test_a_map_leaves_in_the_models_order(reference: Reference) -> None:
    network = to_integer_graph(reference(channels_last).model(), "t4", 1)
    assert network.input.order == (0, 1, 2) and network.input.dims == (7, 6, 3)
    assert network.output.order == (0, 1, 2) and network.output.dims == (7, 6, 4)


def test_all_culprits_are_named_at_once(reference: Reference) -> None:
    artifact = reference(grouped)
    with pytest.raises(InputError) as caught:
        to_integer_graph(artifact.model(), "tvm-cpu", 1)
    assert str(caught.value).splitlines() == [
        "target tvm-cpu: 3 nodes without a kernel",
        "  QConv /depthwise/Conv: a convolution of 8 groups has no kernel there",
        "  QConv /dilated/Conv: a convolution with dilations (2, 2) has none",
        "  Concat /both/Concat: it has no kernel there",
        CURE,
    ]


@EACH
def test_a_graph_survives_its_file(
    make: Callable[[], Net], reference: Reference, tmp_path: Path
) -> None:
    network = to_integer_graph(reference(make, "w4a4").model(), "t4", 3)
    network_file.save(network.graph, tmp_path / "net.npz")
    again = network_file.load(tmp_path / "net.npz")
    assert [node.y for node in again.nodes] == [node.y for node in network.graph.nodes]
    assert (again.input, again.batch) == (network.graph.input, 3)
    x = samples(make(), 4)["x"]
    np.testing.assert_array_equal(results(network, again, x), results(network, network.graph, x))


@pytest.mark.parametrize("at", [0, 100, 1000])
def test_a_damaged_file_is_refused(at: int, reference: Reference, tmp_path: Path) -> None:
    network = to_integer_graph(reference(NETS[3]).model(), "t4", 1)
    path = tmp_path / "net.npz"
    network_file.save(network.graph, path)
    path.write_bytes(path.read_bytes()[:at])
    with pytest.raises(InputError, match=r"is no integer graph: .*: compile the model again"):
        network_file.load(path)


def test_codes_that_gain_nothing_from_4_bits_have_8(reference: Reference) -> None:
    """The image, what a mean reads or makes, and the convolution inside a sum."""
    graph = to_integer_graph(reference(shortcut, "w4a4").model(), "t4", 1).graph
    assert graph.input.bits == 8 and graph.input.zero_point > 15
    by_name = {node.y.name: node for node in graph.nodes}
    mean = by_name["mean_codes_nhwc"]
    assert mean.y.bits == 8 and mean.limits == (0, 255)
    residuals = [n.residual for n in graph.nodes if isinstance(n, Conv) and n.residual is not None]
    assert [r.own_limits for r in residuals] == [(0, 255)] * 2
    bits = {n.y.name: n.y.bits for n in graph.nodes if isinstance(n, Conv)}
    bits.popitem()  # the classifier, which gives int32
    sums = {n.y.name for n in graph.nodes if isinstance(n, Conv) and n.residual is not None}
    assert {bits[name] for name in sums} == {8}  # products read a narrow copy of a sum
    copies = [n for n in graph.nodes if isinstance(n, Lookup)]
    assert [(n.x.bits, n.y.bits) for n in copies] == [(8, 4)]
    assert {b for name, b in bits.items() if name not in sums} == {4}


def test_codes_stay_narrow_where_it_is_asked(tmp_path: Path) -> None:
    net = shortcut()
    recipe = qcompile.Recipe(preset="w4a4", activation_format="uint4", integer_only=True)
    artifact = qcompile.compile(
        net.save(tmp_path / "net.onnx"), recipe=recipe, calibration_data=samples(net, 16)
    )
    graph = to_integer_graph(artifact.model(), "t4", 1).graph
    residuals = [n.residual for n in graph.nodes if isinstance(n, Conv) and n.residual is not None]
    assert {r.own_limits for r in residuals} == {(0, 15)}


def test_of_large_networks_some_blocks_are_emulated(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = to_integer_graph(reference(projected).model(), "t4", 2).graph
    assert verify_network.share_emulated(graph) == 1
    products = 2 * sum(node.num_products for node in graph.nodes if isinstance(node, Conv))
    monkeypatch.setattr(verify_network, "MOST_EMULATED", products // 4)
    assert verify_network.share_emulated(graph) == pytest.approx(1 / 4, abs=1e-3)
