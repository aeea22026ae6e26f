# SPDX-License-Identifier: Apache-2.0
"""What a norm gives to products alone is scaled and moved in the norm: the model stays."""

import numpy as np
import onnx_ir as ir
import pytest

from models import vit_digits
from qcompile.data import Batch, Data
from qcompile.load import load
from qcompile.norm_outputs import can_move, move, norm_edges
from qcompile.normalise import normalise
from qcompile.numerics.scaling import Moving, Scaling
from qcompile.recipe import Recipe
from qcompile.rotated_weights import Turned, turn
from qcompile.rotation_edge import NORMED
from qcompile.rotation_error import Product
from qcompile.verify_normalised import check_rotated
from tests.passes.stages import ops, with_weights
from tests.rotation_nets import GPT, LLAMA, WIDTH, decoder
from tests.test_rotate import DATA, rotated, weights_of
from tests.test_rotation_error import normal, plan

STATIC = plan(activation="uint4/tensor/asym/f32")
BLOCK = """f (float[b,s,16] x, float g, float h, float w, float c, float v, float d, float u)
  => (float[b,s,16] y) { n = LayerNormalization <axis = -1, epsilon = 1e-5> (x, g, h)
  a = MatMul (n, w)  ac = Add (a, c)  q = MatMul (n, v)  qd = Add (q, d)  p = Mul (ac, qd)
  r = Relu (p)  o = MatMul (r, u)  y = Add (x, o) }"""
SHAPES = {"g": (16,), "h": (16,), "w": (16, 24), "c": (24,), "v": (16, 24), "d": (24,)}
X = Data([{"x": normal(6, 11, 16)}], Batch({"x": 0}))


def block(uneven: float = 1.0) -> ir.Model:
    """A gated layer behind a LayerNorm, whose channels differ by so much and more."""
    model = with_weights(BLOCK, **SHAPES, u=(24, 16))
    scale = np.exp(np.linspace(0, np.log(uneven), 16)).astype(np.float32)
    shift = (3 * scale * normal(16, seed=5)).astype(np.float32)
    for name, array in (("g", scale), ("h", shift if uneven > 1 else 0 * shift)):
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return normalise(model)


def moved(model: ir.Model, seed: int = 0) -> ir.Model:
    """A copy with random scales, and shifts where there are places for them."""
    copy = model.clone()
    weights, rng = Turned(copy.graph), np.random.default_rng(seed)
    for edge in norm_edges(copy.graph):
        scales = tuple(np.exp(rng.uniform(-1, 1, edge.block)).tolist())
        if can_move(edge):
            move(edge, Moving(scales, tuple(rng.normal(size=edge.block).tolist()), 1, 100), weights)
        else:
            turn(edge, Scaling(scales, 0.5), weights)
    weights.remove_unread()
    return copy


def test_edges_are_what_products_alone_read() -> None:
    (edge,) = norm_edges(block().graph)
    assert (edge.kind, edge.block, len(edge.readers), can_move(edge)) == (NORMED, 16, 2, True)
    found = norm_edges(decoder(LLAMA).graph)
    assert [len(each.readers) for each in found] == [3, 2, 1]
    assert not any(can_move(each) for each in found)  # RMSNorm has no shift
    gpt = norm_edges(decoder(GPT).graph)
    assert [can_move(each) for each in gpt] == [True, False]  # the head has no bias


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y = Add (x, o)", "y = Add (n, o)"),
        ("q = MatMul (n, v)", "nt = Tanh (n) q = MatMul (nt, v)"),
        ("q = MatMul (n, v)", "nn = Neg (n) q = MatMul (nn, v)"),
    ],
)
def test_what_something_else_reads_is_no_edge(old: str, new: str) -> None:
    text = BLOCK.replace(old, new)
    assert norm_edges(normalise(with_weights(text, **SHAPES, u=(24, 16))).graph) == []


def test_a_norm_whose_inside_is_read_and_one_of_maps_are_no_edges() -> None:
    text = LLAMA.replace("y = MatMul (n3, head)", "yy = MatMul (n3, head) y = Add (yy, n3d)")
    assert len(norm_edges(decoder(text).graph)) == 2
    spelled = """f (float[b,s,8] x, float w) => (float[b,s,6] y, float[b,s,8] z)
      <float[8] g = {1,2,3,4,5,6,7,8}, float[8] h = {1,2,3,4,5,6,7,8}, float e = {1e-5}> {
      m = ReduceMean <axes = [-1]> (x) c = Sub (x, m) q = Mul (c, c)
      v = ReduceMean <axes = [-1]> (q) t = Add (v, e) r = Sqrt (t) d = Div (c, r)
      k = Mul (d, g) n = Add (k, h) y = MatMul (n, w) z = READ }"""
    for read, edges in (("Relu (x)", 1), ("Relu (k)", 0), ("Relu (d)", 0)):
        model = normalise(with_weights(spelled.replace("READ", read), w=(8, 6)))
        assert len(norm_edges(model.graph)) == edges, read


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("text", [LLAMA, GPT, None], ids=["llama", "gpt", "block"])
def test_outputs_stay_and_no_node_is_added(text: str | None, seed: int) -> None:
    model, data = (block(9), X) if text is None else (decoder(text), DATA)
    found = moved(model, seed)
    assert ops(found) == ops(model)
    assert check_rotated(model, found, data).passed


def test_a_vision_transformer() -> None:
    model = normalise(load(vit_digits.path()))
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    data = Data([{"image": images}], Batch({"image": 0}))
    assert len(norm_edges(model.graph)) == 5
    assert check_rotated(model, moved(model), data).passed


def test_wrong_numbers_fail() -> None:
    model, count = block(9), 0
    for name, array in weights_of(moved(model)).items():
        if "_rotated" in name:
            broken, wrong = moved(model), array.copy()
            wrong += 0.5
            broken.graph.initializers[name].const_value = ir.tensor(wrong, name=name)
            assert not check_rotated(model, broken, X).passed, name
            count += 1
    assert count == 6  # scale, shift, two weights, two biases


def test_the_ranges_of_all_channels_become_one() -> None:
    """RepQ-ViT: s and z of every channel are the mean s and z."""
    x = (normal(50, 9) * np.exp(normal(9, seed=1)) + 4 * normal(9, seed=2)).astype(np.float64)
    y = Moving.of(x, 1.0, 100.0).times(x)
    s = (x.max(0) - x.min(0)).astype(np.float64) / 15
    z = -x.min(0).astype(np.float64) / s
    low, high = -z.mean() * s.mean(), (15 - z.mean()) * s.mean()
    bound = 64 * 2.0**-53 * np.abs(np.stack([x.min(0), x.max(0)])).max() * 15
    assert np.abs(y.min(0) - low).max() <= bound and np.abs(y.max(0) - high).max() <= bound
    assert np.abs(Moving.of(x, 0.5, 100.0).times(x).min(0) - low).max() > bound


def test_a_clipped_range_leaves_an_outlier_out() -> None:
    x = normal(2000, 2)
    x[7, 1] = 1000
    wide, clipped = (Moving.of(x, 1.0, clip).scales[1] for clip in (100.0, 99.9))
    assert wide > 1.9 and clipped < 1.1


def test_a_channel_of_one_value_is_only_moved() -> None:
    x = np.stack([np.full(8, 5.0), np.arange(8.0)], 1)
    found = Moving.of(x, 1.0, 100.0)
    assert found.scales[0] == 1 and np.isfinite(found.shifts).all()


def test_the_shift_is_no_part_of_the_signal() -> None:
    """A shift of 1000 leaves noise ÷ signal as it is where nothing is rounded."""
    x, weight = normal(40, 16).astype(np.float64), normal(8, 16, seed=1)
    bare = plan("int8/axis(axis=0)/sym/f32", None)
    far = Moving((1.0,) * 16, (2.0,) * 16, 0.0, 100.0)
    own = Product(x, weight, None, None, bare, has_bias=True)
    before, _ = own.measure(None, Recipe())
    after, _ = own.measure(far, Recipe())
    assert abs(after / before - 1) < 2.0**-20 * 16  # float32 inputs of 3 instead of 1
    assert replace_bias(own).measure(far, Recipe())[0] > 1.5 * before


def replace_bias(product: Product) -> Product:
    return Product(product.x, product.weight, None, None, product.plan)


def test_uneven_channels_are_moved_and_even_ones_stay() -> None:
    found = rotated(block(30.0), X, preset="w4a4")
    (row,) = (each for each in found.rows if each.kind == NORMED)
    assert row.is_applied and row.transform.startswith("scales")
    assert row.after.sqnr_db > row.before.sqnr_db + 1
    assert ops(found.model) == ops(block()) and check_rotated(block(30.0), found.model, X).passed
    (row,) = (each for each in rotated(block(), X, preset="w4a4").rows if each.kind == NORMED)
    assert not row.is_applied and row.reason.endswith("% less is asked")


def test_what_a_rotation_took_is_left_alone() -> None:
    model = decoder(LLAMA, emb=outlier_table())
    found = rotated(model)
    assert found.rows[0].is_applied
    assert not any(row.kind == NORMED for row in found.rows)


def outlier_table() -> np.ndarray:
    table = np.random.default_rng(3).standard_normal((40, WIDTH))
    table[:, 3] *= 20
    return table


def test_static_ranges_of_all_channels_gain_most_where_shifts_differ() -> None:
    x = (normal(64, 16) + 8 * normal(16, seed=3)).astype(np.float64)
    product = Product(x, normal(8, 16, seed=1), None, None, STATIC, has_bias=True)
    before, _ = product.measure(None, Recipe())
    after, _ = product.measure(Moving.of(x, 1.0, 100.0), Recipe())
    assert after < 0.25 * before
