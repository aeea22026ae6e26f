# SPDX-License-Identifier: Apache-2.0
"""A rotation at run time becomes an attribute of its product, or one node for several."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile import targets
from qcompile.annotate import annotate
from qcompile.graph import attribute
from qcompile.normalise import normalise
from qcompile.numerics.hadamard import Hadamard
from qcompile.online_rotation import insert
from qcompile.passes.lower.lower_matmul import LowerMatmul
from qcompile.passes.lower.lower_rotation import LowerRotation
from qcompile.passes.lower.qdq import rotated_value, rotation_of
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.transform.stats import Stats
from qcompile.recipe import Recipe
from qcompile.reference import run_node
from qcompile.rotated_weights import Turned
from qcompile.session import open_model
from qcompile.transform import transform
from tests.passes.stages import find, ops, run_passes, with_weights

ONE = "y = MatMul (x, w)"
TWO = "a = MatMul (x, w)   b = MatMul (x, v)   y = Add (a, b)"


def net(body: str, k: int, lead: str = "b,3") -> ir.Model:
    text = f"f (float[{lead},{k}] x, float w, float v) => (float[{lead},24] y) {{ {body} }}"
    used = {"w": (k, 24), "v": (k, 24)} if ", v)" in body else {"w": (k, 24)}
    return normalise(with_weights(text.replace("" if "v" in used else ", float v", ""), 0, **used))


def rotated(model: ir.Model, rotation: Hadamard) -> ir.Model:
    """A copy whose products read x · R."""
    copy = model.clone()
    (value,) = copy.graph.inputs
    weights = Turned(copy.graph)
    insert(value, [n for n in copy.graph if n.op_type == "MatMul"], rotation, weights)
    weights.remove_unread()
    return copy


def coded(model: ir.Model, preset: str = "w4a4-dynamic") -> ir.Model:
    """The QDQ graph of a normalised model."""
    recipe = Recipe(preset=preset, edge_bits=4)
    plan = annotate(model, recipe, targets.get("cpu"), has_data=True)
    return transform(model, plan, Stats(), recipe)


def lowered(body: str, rotation: Hadamard, preset: str) -> tuple[ir.Model, ir.Model]:
    """The QDQ graph and the lowered one."""
    quantized = coded(rotated(net(body, rotation.size), rotation), preset)
    return quantized, run_passes(
        quantized, LowerMatmul(), RemoveUnused(), LowerRotation(), RemoveUnused()
    )


ROTATIONS = [Hadamard(64, 64, 0), Hadamard(43, 32, 1), Hadamard(48, 16, 2), Hadamard(2, 2, 3)]


@pytest.mark.parametrize("rotation", ROTATIONS, ids=str)
@pytest.mark.parametrize("lead", ["b", "b,3", "b,2,3"])
def test_the_nodes_compute_the_rotation_and_the_weights_take_it_back(
    rotation: Hadamard, lead: str
) -> None:
    """Each element: two rotations of `size` sums and the product's K, of unit roundings."""
    model = net(ONE, rotation.size, lead)
    changed = rotated(model, rotation)
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((5, *(3,) * (lead.count(",") and 1), rotation.size))}
    if lead == "b,2,3":
        feed = {"x": rng.standard_normal((5, 2, 3, rotation.size))}
    feed = {"x": feed["x"].astype(np.float32)}
    last = next(n for n in changed.graph if n.op_type == "MatMul" and rotation_of(n) is None)
    value = last.inputs[0]
    assert value is not None and rotated_value(value.producer()).name == "x"
    assert rotation_of(value.producer()) == rotation
    shown = changed.clone()
    shown.graph.outputs.append(
        next(v for n in shown.graph for v in n.outputs if v.name == value.name)
    )
    y, turned = open_model(shown).run(None, feed)
    wanted = open_model(model).run(None, feed)[0]
    power = np.sqrt((feed["x"].astype(np.float64) ** 2).sum(-1, keepdims=True))
    limit = 4 * (rotation.size + 16) * 2.0**-24 * power
    assert (np.abs(turned - rotation.times(feed["x"])) <= limit).all()
    assert (np.abs(turned + rotation.times(feed["x"])).max(-1, keepdims=True) > limit).all()
    assert (np.abs(y - wanted) <= limit * 8).all()


@pytest.mark.parametrize("preset", ["w4a4-dynamic", "w4a8-dynamic", "w4a16"])
@pytest.mark.parametrize("rotation", ROTATIONS, ids=str)
def test_one_product_takes_it(rotation: Hadamard, preset: str) -> None:
    _, made = lowered(ONE, rotation, preset)
    assert ops(made) == ["QMatMul"]
    node = find(made, "QMatMul")
    assert node.inputs[0].name == "x"
    assert attribute(node, "hadamard") == rotation.block
    assert attribute(node, "hadamard_seed") == rotation.seed
    assert not any(name.startswith("rotation_") for name in made.graph.initializers)


def test_numerics_of_the_product_rotate_first() -> None:
    _, made = lowered(ONE, ROTATIONS[1], "w4a4-dynamic")
    node = find(made, "QMatMul")
    x = np.random.default_rng(1).standard_normal((4, 43)).astype(np.float32)
    fused = run_node(node, [x])[0]
    del node.attributes["hadamard"]
    assert np.array_equal(fused, run_node(node, [ROTATIONS[1].rotate(x)])[0])
    assert not np.array_equal(fused, run_node(node, [x])[0])


def test_several_products_share_one_node() -> None:
    _, made = lowered(TWO, ROTATIONS[0], "w4a4-dynamic")
    assert ops(made) == ["Hadamard", "QMatMul", "QMatMul", "Add"]
    node = find(made, "Hadamard")
    assert [attribute(node, n) for n in ("K", "hadamard", "hadamard_seed")] == [64, 64, 0]
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    value, bound = run_node(node, [x])
    assert np.array_equal(value, ROTATIONS[0].rotate(x)) and not bound.any()


def test_a_rotation_that_others_read_stays() -> None:
    model = rotated(net(ONE, 64), ROTATIONS[0])
    copy = run_passes(coded(model), LowerMatmul(), RemoveUnused())
    value = find(copy, "QMatMul").inputs[0]
    copy.graph.outputs.append(value)
    lower = LowerRotation()
    lower(copy)
    assert [r.reason for r in lower.refusals] == [f"other nodes read the rotated {value.name}"]
    assert ops(copy).count("Reshape") == 2


def test_other_products_are_left_alone() -> None:
    first = run_passes(coded(net(ONE, 64)), LowerMatmul(), RemoveUnused())
    assert ops(run_passes(first, LowerRotation())) == ops(first)
