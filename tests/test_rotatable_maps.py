# SPDX-License-Identifier: Apache-2.0
"""Channels of maps between convolutions: what is found, what blocks it, and what it is good for."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from models.zoo import mobilenetv2
from qcompile import targets
from qcompile.annotate import annotate
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.graph import constant
from qcompile.normalise import normalise
from qcompile.numerics.hadamard import Rotation
from qcompile.numerics.scaling import Scaling
from qcompile.recipe import Recipe
from qcompile.rotatable_maps import map_edges
from qcompile.rotate import Rotated, rotate
from qcompile.rotated_weights import Turned, turn
from qcompile.verify_normalised import check_rotated
from tests.passes.stages import ops, with_weights

IMAGES = {"image": np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)}
DATA = Data([IMAGES], Batch({"image": 0}))
IN = {"x": np.random.default_rng(1).standard_normal((2, 6, 7, 7)).astype(np.float32)}
BODY = {
    "plain": "m = Conv (x, a, c)   y = Conv (m, b)",
    "sum": "m = Conv (x, a, c)   k = Conv (x, d)   s = Add (m, k)   y = Conv (s, b)",
    "wide writer": "m = Conv <pads = [1,1,1,1]> (x, w)   y = Conv (m, b)",
    "pool": "m = Conv (x, a)   p = AveragePool <kernel_shape = [2,2]> (m)   y = Conv (p, b)",
    "two readers": "m = Conv (x, a)   u = Conv (m, b)   k = Conv (m, b)   y = Add (u, k)",
}
BLOCKED = {
    "tanh": (
        "m = Conv (x, a)   r = Tanh (m)   s = Add (r, m)   y = Conv (s, b)",
        "Tanh Tanh_r does not commute with a rotation",
    ),
    "depthwise": (
        "m = Conv (x, a)   s = Conv <group = 8> (m, e)   t = Add (s, m)   y = Conv (t, b)",
        "Conv Conv_s sees groups of channels by themselves",
    ),
    "windows": (
        "m = Conv (x, a)   u = Conv <pads = [1,1,1,1]> (m, v)   k = Conv (m, b)   y = Add (u, k)",
        "Conv Conv_u reads windows, not pixels",
    ),
    "output": ("z = Conv (x, a)   y = Conv (z, b)", "z is an output of the model"),
}
SHAPES = {
    **{"a": (8, 6, 1, 1), "b": (5, 8, 1, 1), "c": (8,), "d": (8, 6, 1, 1), "e": (8, 1, 1, 1)},
    **{"v": (5, 8, 3, 3), "w": (8, 6, 3, 3)},
}


def net(body: str) -> ir.Model:
    used = [n for n in SHAPES if f", {n})" in body or f", {n}," in body]
    more = ", float[n,8,h,w] z" if "z =" in body else ""
    text = f"f (float[n,6,7,7] x, {', '.join(f'float {n}' for n in used)}) => "
    text += f"(float[n,5,h,w] y{more}) {{ {body} }}"
    return normalise(with_weights(text, 0, **{n: SHAPES[n] for n in used}))


@pytest.mark.parametrize("body", BODY.values(), ids=BODY)
def test_a_rotation_changes_no_output_and_no_node(body: str) -> None:
    model = net(body)
    (edge,) = map_edges(model.graph)
    assert edge.reason == "" and edge.kind == "linear bottleneck" and edge.block == 8
    copy = model.clone()
    weights = Turned(copy.graph)
    turn(map_edges(copy.graph)[0], Rotation(8, 3), weights)
    weights.remove_unread()
    assert ops(copy) == ops(model)
    data = Data([IN], Batch({"x": 0}))
    assert check_rotated(model, copy, data).passed
    name = next(n for n in copy.graph.initializers if n.endswith("_rotated"))
    wrong = np.array(constant(copy.graph.initializers[name]))
    wrong.reshape(-1)[0] *= -1  # the twin
    copy.graph.initializers[name].const_value = ir.tensor(wrong, name=name)
    assert not check_rotated(model, copy, data).passed


BENT = {
    "relu": "m = Conv (x, a, c)   r = Relu (m)   y = Conv (r, b)",
    "leaky": "m = Conv (x, a, c)   r = LeakyRelu <alpha = 0.1> (m)   y = Conv (r, b)",
    "max": "m = Conv (x, a)   p = MaxPool <kernel_shape = [2,2]> (m)   y = Conv (p, b)",
    "sum": "m = Conv (x, a)   r = Relu (m)   s = Add (r, m)   t = Relu (s)   y = Conv (t, b)",
}


@pytest.mark.parametrize("body", BENT.values(), ids=BENT)
def test_scales_pass_what_keeps_positive_factors(body: str) -> None:
    model = net(body)
    scaling = Scaling.of(np.arange(1.0, 9), np.arange(9.0, 1, -1), 0.5)
    data = Data([IN], Batch({"x": 0}))
    for transform, is_right in ((scaling, True), (Rotation(8, 3), False)):
        copy = model.clone()
        (edge,) = map_edges(copy.graph)
        assert edge.reason == "" and edge.bend
        weights = Turned(copy.graph)
        turn(edge, transform, weights)
        weights.remove_unread()
        assert ops(copy) == ops(model)
        assert check_rotated(model, copy, data).passed == is_right


@pytest.mark.parametrize(("body", "reason"), BLOCKED.values(), ids=BLOCKED)
def test_what_blocks_an_edge(body: str, reason: str) -> None:
    reasons = [edge.reason for edge in map_edges(net(body).graph)]
    assert reason in reasons


def test_what_an_activation_made_is_no_edge() -> None:
    assert map_edges(net("m = Conv (x, a)   r = Tanh (m)   y = Conv (r, b)").graph) == []


def outlier_channel(model: ir.Model, factor: float = 8.0) -> ir.Model:
    """One channel of the first residual bottleneck is much larger; its readers take that back."""
    copy = model.clone()
    edge = next(e for e in map_edges(copy.graph) if not e.reason)
    for writer in edge.writers:
        _scale(writer.node.inputs[1], (3,), factor)
        if len(writer.node.inputs) > 2:
            _scale(writer.node.inputs[2], (3,), factor)
    for reader in edge.readers:
        _scale(reader.node.inputs[1], (slice(None), 3), 1 / factor)
    return copy


def _scale(value: ir.Value | None, place: tuple[object, ...], factor: float) -> None:
    assert value is not None
    array = np.array(constant(value))
    array[place] *= factor
    value.const_value = ir.tensor(array, name=value.name)


def rotated(model: ir.Model, preset: str = "w4a4") -> Rotated:
    recipe = Recipe(preset=preset, edge_bits=4)
    plan = annotate(model, recipe, targets.get("cpu"), has_data=True)
    return rotate(model, plan, recipe, DATA, Division())


def test_an_even_mobilenet_stays_and_one_with_an_outlier_is_turned() -> None:
    model = normalise(mobilenetv2.build(tiny=True))
    maps = [row for row in rotated(model).rows if row.kind == "linear bottleneck"]
    assert [row.size for row in maps if not row.reason.startswith("Clip")] == [24, 32]
    assert not any(row.is_applied for row in maps)
    uneven = outlier_channel(model)
    found = rotated(uneven)
    row = next(row for row in found.rows if row.is_applied)
    assert row.kind == "linear bottleneck" and row.size == 24
    assert row.before is not None and row.after is not None
    assert row.after.sqnr_db > row.before.sqnr_db + 2 and row.after.crest < row.before.crest
    assert ops(found.model) == ops(uneven)
    assert check_rotated(uneven, found.model, DATA).passed


def test_eight_bits_are_good_enough() -> None:
    rows = rotated(normalise(mobilenetv2.build(tiny=True)), "w8a8").rows
    assert sum("30 are enough" in row.reason for row in rows) == 2


def test_the_artifact_is_better_for_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    ir.save(outlier_channel(normalise(mobilenetv2.build(tiny=True))), path)
    made = {
        rotation: qcompile.compile(
            path,
            "cpu",
            tmp_path / rotation,
            recipe=Recipe(preset="w4a4", edge_bits=4, rotation=rotation, effort="quick"),
            calibration_data=[IMAGES],
        )
        for rotation in ("auto", "off")
    }
    rows = made["auto"].content["rotations"]
    assert [row["is_applied"] for row in rows if row["kind"] == "linear bottleneck"].count(True)
    assert made["auto"].measured["sqnr_db"] > made["off"].measured["sqnr_db"] + 1
