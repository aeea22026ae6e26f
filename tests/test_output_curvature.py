# SPDX-License-Identifier: Apache-2.0
"""What the loss makes of a layer's outputs, against the exact matrices of small networks."""

import numpy as np

from qcompile.output_curvature import drawn, output_curvatures
from qcompile.passes.transform.layer_rows import LayerRows
from qcompile.rebuilt_layer import layers_of
from qcompile.tuning_loss import Loss
from qcompile.tuning_samples import Samples
from tests.pipeline.test_tune import NET, Net

LINEAR = """f (float[b,3,10,10] x, float w, float v) => (float[b,5] y)
{ f = Flatten (x)   h = MatMul (f, w)   y = MatMul (h, v) }"""
SHAPES = {"w": (300, 8), "v": (8, 5)}
SIGMAS = 6


def curvatures(net: Net):
    layers = list(layers_of(net.quantized, net.model, net.plan))
    feeds = Samples.of(net.data)[0].feeds(16)
    rng = np.random.default_rng(0)
    parts = net.quantized, net.model, net.plan, layers, feeds, net.division, rng
    return layers, output_curvatures(*parts)


def test_of_a_linear_network_it_is_that_of_the_weights_behind() -> None:
    net = Net("w3a16", LINEAR, 256, SHAPES)
    layers, found = curvatures(net)
    behind = layers[1].coded().decode().astype(np.float64)  # [5, 8]
    exact = behind.T @ behind
    exact /= np.diag(exact).mean()
    draws = 4 * 224  # of the samples that are not held out
    size = np.diag(exact)
    spread = np.sqrt((np.outer(size, size) + exact**2) / draws)  # of products of normals
    first, last = (found[layer.sums_here][0] for layer in layers)
    bound = SIGMAS * (
        spread + np.abs(exact) * np.sqrt(2 / draws)
    )  # of it, and of its mean diagonal
    assert (np.abs(first - exact) <= bound).all()
    assert (np.abs(np.eye(8) - exact) > bound).any()
    assert (np.abs(last - np.eye(5)) <= SIGMAS * 2 / np.sqrt(draws)).all()


def test_groups_and_maps() -> None:
    layers, found = curvatures(Net("w3a8", NET))
    shapes = {layer.sums_here: (layer.source.group, len(layer.weight)) for layer in layers}
    assert found.keys() == shapes.keys()
    for name, (groups, n) in shapes.items():
        assert found[name].shape == (groups, n // groups, n // groups)
        assert abs(np.einsum("gnn->gn", found[name]).mean() - 1) < 2.0**-18


def test_labels_are_drawn_from_the_distribution() -> None:
    logits = np.broadcast_to(np.float32([1, 0, -1])[None, :, None], (100, 3, 100))
    found = drawn(Loss("y", 1), logits, np.random.default_rng(0)).astype(np.float64)
    share = np.exp([1, 0, -1]) / np.exp([1, 0, -1]).sum()
    rows = found.transpose(0, 2, 1).reshape(-1, 3) * 100  # √ of 10,000 distributions
    exact = np.diag(share) - np.outer(share, share)
    assert np.abs(rows.mean(0)).max() <= SIGMAS / np.sqrt(len(rows))
    assert np.abs(rows.T @ rows / len(rows) - exact).max() <= SIGMAS / np.sqrt(len(rows))
    assert np.abs(rows.sum(1)).max() <= 2.0**-20


def test_directions_give_the_curvature_of_the_loss() -> None:
    """Of a linear map y = W x, of which the squared error has 2 Wᵀ W ÷ (size · variance)."""
    rng, loss = np.random.default_rng(0), Loss("y", variance=3.0)
    weight = rng.standard_normal((5, 4))
    draws = 4000
    found = np.array([drawn(loss, np.zeros(5, np.float32), rng) @ weight for _ in range(draws)])
    exact = 2 * weight.T @ weight / (5 * 3.0)
    size = np.diag(exact)
    spread = np.sqrt((np.outer(size, size) + exact**2) / draws)
    assert (np.abs(found.T @ found / draws - exact) <= SIGMAS * spread).all()
    assert (np.abs(found.T @ found / draws - 2 * exact) > SIGMAS * spread).any()


def test_errors_count_as_the_curvature_says() -> None:
    rng = np.random.default_rng(0)
    y, made = rng.standard_normal((2, 2, 7, 3)).astype(np.float32)
    root = rng.standard_normal((2, 3, 3)).astype(np.float32)
    curvature = root @ root.swapaxes(1, 2)
    rows = LayerRows(np.zeros((2, 7, 4), np.float32), y, (0.0, np.inf), curvature=curvature)
    total, slope = rows.loss(made)
    left = (made - y).astype(np.float64)
    exact = np.einsum("gri,gij,grj->", left, curvature.astype(np.float64), left) / y.size
    assert abs(total - exact) <= 2.0**-20 * exact
    assert np.abs(slope - 2 * np.einsum("gij,grj->gri", curvature, left) / y.size).max() < 2.0**-20
    unit = LayerRows(rows.x, y, curvature=np.broadcast_to(np.eye(3, dtype=np.float32), (2, 3, 3)))
    plain = LayerRows(rows.x, y)
    assert abs(unit.loss(made)[0] - plain.loss(made)[0]) <= 2.0**-20 * plain.loss(made)[0]
