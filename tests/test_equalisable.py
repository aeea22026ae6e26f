# SPDX-License-Identifier: Apache-2.0
"""Scales between convolutions of any kind: the model stays, ranges become equal, and the gain."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile import targets
from qcompile.annotate import annotate
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.equalisable import equal_edges, weight_ranges
from qcompile.graph import constant
from qcompile.normalise import normalise
from qcompile.numerics.scaling import Scaling
from qcompile.products import weight_of
from qcompile.recipe import Recipe
from qcompile.rotate import rotate
from qcompile.rotated_weights import Turned, turn
from qcompile.rotation_edge import EQUAL
from qcompile.rotation_error import Product
from qcompile.verify_normalised import check_rotated
from tests.passes.stages import ops, with_weights
from tests.test_rotation_error import normal, plan

IN = {"x": normal(6, 3, 9, 9)}
DATA = Data([IN], Batch({"x": 0}))
P = "<pads = [1,1,1,1]>"
BODY = {
    "windows": f"m = Conv {P} (x, a, c)  r = Relu (m)  y = Conv {P} (r, b)",
    "strides": "m = Conv (x, a, c)  r = Relu (m)  y = Conv <strides = [2,2]> (r, b)",
    "depthwise": f"m = Conv {P} (x, a, c)  r = Relu (m)  d = Conv <group = 8> (r, e, f)"
    "  s = Relu (d)  y = Conv (s, b)",
    "residual": f"m = Conv {P} (x, a, c)  r = Relu (m)  k = Conv {P} (r, v)  t = Add (r, k)"
    "  u = Relu (t)  y = Conv (u, b)",
    "pool": f"m = Conv {P} (x, a)  r = LeakyRelu <alpha = 0.125> (m)"
    "  p = MaxPool <kernel_shape = [2,2]> (r)  y = Conv (p, b)",
}
SHAPES = {
    **{"a": (8, 3, 3, 3), "b": (5, 8, 3, 3), "c": (8,), "e": (8, 1, 3, 3), "f": (8,)},
    "v": (8, 8, 3, 3),
}


def net(body: str) -> ir.Model:
    used = [n for n in SHAPES if f", {n})" in body or f", {n}," in body]
    text = f"g (float[n,3,9,9] x, {', '.join(f'float {n}' for n in used)}) => "
    return normalise(
        with_weights(f"{text}(float[n,5,h,w] y) {{ {body} }}", **{n: SHAPES[n] for n in used})
    )


def scaled(model: ir.Model, seed: int = 0) -> ir.Model:
    """A copy with random scales on every edge."""
    copy = model.clone()
    weights, rng = Turned(copy.graph), np.random.default_rng(seed)
    for edge in equal_edges(copy.graph):
        turn(edge, Scaling(tuple(np.exp(rng.uniform(-2, 2, edge.block)).tolist()), 0.5), weights)
    weights.remove_unread()
    return copy


@pytest.mark.parametrize("body", BODY.values(), ids=BODY)
def test_outputs_stay_and_no_node_is_added(body: str) -> None:
    model = net(body)
    found = scaled(model)
    assert ops(found) == ops(model)
    assert {edge.kind for edge in equal_edges(model.graph)} == {EQUAL}
    assert check_rotated(model, found, DATA).passed


@pytest.mark.parametrize("body", BODY.values(), ids=BODY)
def test_one_wrong_channel_fails(body: str) -> None:
    model = net(body)
    changed = [n for n in scaled(model).graph.initializers if "_rotated" in n]
    assert changed
    for name in changed:
        broken = scaled(model)
        value = broken.graph.initializers[name]
        wrong = value.const_value.numpy() * np.float32(1.25)
        value.const_value = ir.tensor(wrong, name=name)
        assert not check_rotated(model, broken, DATA).passed, name


@pytest.mark.parametrize(
    "body",
    [
        "m = Conv (x, a)  r = Sigmoid (m)  y = Conv (r, b)",
        "m = Conv (x, a)  r = Relu (m)  k = Exp (r)  t = Add (r, k)  y = Conv (t, b)",
    ],
)
def test_what_does_not_keep_factors_is_no_edge(body: str) -> None:
    assert equal_edges(net(body).graph) == []


def test_the_ranges_of_both_weights_become_equal() -> None:
    """Nagel et al. 2019, section 4.1: s = √(r1 ÷ r2) gives both the range √(r1 r2)."""
    model = net(BODY["windows"])
    (edge,) = equal_edges(model.graph)
    first = weight_ranges(edge)
    reader = np.abs(constant(weight_of(edge.readers[0].node))).max((0, 2, 3)).astype(np.float64)
    weights = Turned(model.graph)
    turn(edge, Scaling.of(first, reader, 0.5), weights)
    (after,) = equal_edges(model.graph)
    ranges = weight_ranges(after)
    read = np.abs(constant(weight_of(after.readers[0].node))).max((0, 2, 3))
    ratio = ranges / read  # one number: scales of mean 1 leave the level of both
    assert np.abs(ratio / ratio[0] - 1).max() <= 8 * 2.0**-23
    assert np.abs(first / reader / (first / reader)[0] - 1).max() > 0.1


def test_the_measured_product_is_the_convolution() -> None:
    """Patches times the weight, of windows and of channels by themselves, with scales or not."""
    codes = plan("int8/axis(axis=0)/sym/f32", None)
    s = Scaling(tuple(np.exp(normal(4).astype(np.float64)).tolist()), 0.5)
    x = normal(20, 4 * 9).astype(np.float64)
    dense = Product(x, normal(3, 36, seed=1), None, None, codes, kernel=9)
    own = Product(x, normal(4, 9, seed=1), None, None, codes, kernel=9, is_own=True)
    # 8-bit weights alone are rounded: half a step of each of K numbers
    for product in (dense, own):
        for scaling in (None, s):
            noise, _ = product.measure(scaling, Recipe())
            assert 0 < noise < 2.0**-12
    patches = x.reshape(20, 4, 9).astype(np.float32)
    wanted = np.einsum("nck,ck->nc", patches.astype(np.float64), own.weight.astype(np.float64))
    found = own._apply(x.astype(np.float32), own.weight)
    assert np.abs(found - wanted).max() <= 16 * 2.0**-52 * np.abs(wanted).max() * 9


@pytest.mark.parametrize("body", ["windows", "depthwise"])
def test_a_large_channel_that_small_weights_read_is_scaled_away(body: str) -> None:
    model, factor = net(BODY[body]), 40.0
    _times(model, "c", 2, factor)
    _times(model, "a", 2, factor)
    reader = "b" if body == "windows" else "e"
    weight = model.graph.initializers[reader].const_value.numpy().copy()
    weight[(slice(None), 2) if reader == "b" else 2] /= factor
    model.graph.initializers[reader].const_value = ir.tensor(weight, name=reader)
    recipe = Recipe(preset="w4a4", edge_bits=4)
    chosen = annotate(model, recipe, targets.get("cpu"), has_data=True)
    found = rotate(model, chosen, recipe, DATA, Division())
    row = next(row for row in found.rows if row.kind == EQUAL)
    assert row.is_applied and row.after.sqnr_db > row.before.sqnr_db + 5
    assert check_rotated(model, found.model, DATA).passed


def _times(model: ir.Model, name: str, channel: int, factor: float) -> None:
    array = model.graph.initializers[name].const_value.numpy().copy()
    array[channel] *= factor
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)
