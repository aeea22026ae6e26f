# SPDX-License-Identifier: Apache-2.0
"""`--weight-format auto`: the candidate of least error is taken, wherever one may be."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from qcompile.annotate import annotate
from qcompile.data import read_data
from qcompile.division import Division, Footprint
from qcompile.errors import InputError
from qcompile.format_choice import best_spec, bits_per_weight, candidates, choose_formats, errors_of
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.descend import descend
from qcompile.plan import Plan
from qcompile.products import weight_of
from qcompile.recipe import Recipe, Rule
from qcompile.settle_formats import settled_spec
from qcompile.spec import QuantSpec
from qcompile.targets import get as target
from tests.pipeline.nets import cnn, mlp, samples, tied

BLOCKS = QuantSpec.parse("uint4/block(axis=1,size=32)/asym/f16")
ROWS = QuantSpec.parse("int4/axis(axis=0)/sym/f32")


def planned(path: Path, recipe: Recipe, name: str = "cpu") -> tuple[ir.Model, Plan]:
    model = normalise(load(path))
    return model, annotate(model, recipe, target(name), has_data=True)


def weight(seed: int = 0, shape: tuple[int, int] = (32, 64)) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_candidates_are_no_larger_than_the_preset() -> None:
    found = candidates(BLOCKS, 1 << 20, is_integer=False)
    assert found[0] == BLOCKS and len(set(found)) == len(found)
    most = bits_per_weight(BLOCKS, 1 << 20)
    assert all(each.bits == 4 and bits_per_weight(each, 1 << 20) <= most for each in found)
    names = {each.format.name for each in found}
    assert {"int4", "e2m1", "e3m0", "nf4", "lloyd4", "kmeans4", "posit4_1", "bitmod4"} <= names
    assert {each.scale_format.partition("*")[0] for each in found} == {"f16", "ue4m3", "e8m0"}
    few = candidates(BLOCKS, 512, is_integer=False)  # a table of 32 bytes is half a bit here
    assert "kmeans4/block(axis=1,size=32)/sym/e8m0" in map(str, few)
    assert "kmeans4/block(axis=1,size=16)/sym/ue4m3" not in map(str, few)


def test_integer_products_get_entries_of_16_bits_at_most() -> None:
    for bits in range(2, 8):
        own = QuantSpec.parse(f"int{bits}/axis(axis=0)/sym/f32")
        found = candidates(own, 4096, is_integer=True)
        assert found[0] == own and len(found) >= 4
        assert all(each.format.entry_bits <= 16 and each.granularity == "axis" for each in found)
        assert all(QuantSpec.parse(str(each)) == each for each in found)


@pytest.mark.parametrize("own", [BLOCKS, ROWS], ids=str)
@pytest.mark.parametrize("tails", [False, True])
def test_the_choice_has_the_least_error_on_the_outputs(own: QuantSpec, tails: bool) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_t(2, (32, 64)) if tails else rng.uniform(-1, 1, (32, 64))
    w = rows.astype(np.float32)
    x = rng.standard_normal((500, 64)) * np.geomspace(0.01, 10, 64)
    specs, hessian = candidates(own, w.size, is_integer=False), (x.T @ x / len(x))[None]
    nearest, descended = {}, {}
    for spec in specs:
        settled = settled_spec(w, spec)
        coded = code_weight(w, settled, "mse")
        moved = descend(w, coded, hessian.astype(np.float32), settled)
        nearest[spec] = output_error(w, coded, x)
        descended[spec] = output_error(w, moved, x)
    best, finalists = best_spec(w, specs, hessian), sorted(specs, key=nearest.__getitem__)[:4]
    assert best in finalists
    assert descended[best] <= min(descended[each] for each in finalists) * (1 + 1e-9)
    found = errors_of(w, specs, (x.T @ x)[None])
    assert found == pytest.approx([nearest[spec] for spec in specs])
    assert found != pytest.approx(errors_of(w, specs, x.T[None] @ x[:, ::-1]))  # other inputs


def output_error(w: np.ndarray, coded: CodedWeight, x: np.ndarray) -> float:
    return float(np.square(x @ (coded.decode().astype(np.float64) - w).T).sum())


def test_groups_have_moments_of_their_own() -> None:
    w = weight(5, (4, 64))
    w[2:] = np.sign(w[2:]) * 2.0 ** np.round(np.log2(np.abs(w[2:])))
    specs = [QuantSpec.parse(f"{f}/axis(axis=0)/sym/f32") for f in ("int4", "e3m0")]
    one, two = np.eye(64), np.zeros((64, 64))
    assert best_spec(w, specs, np.stack([one, two])).format.name == "int4"
    assert best_spec(w, specs, np.stack([two, one])).format.name == "e3m0"


@pytest.mark.parametrize("has_data", [True, False])
def test_every_narrow_weight_of_a_plan_gets_a_format(tmp_path: Path, has_data: bool) -> None:
    net = mlp()
    recipe = Recipe("w4a16", "auto")
    model, plan = planned(net.save(tmp_path / "m.onnx"), recipe)
    data = read_data([samples(net)], list(model.graph.inputs), 8) if has_data else None
    division = Division(footprint=Footprint.of(model, data)) if data is not None else None
    found = choose_formats(model, plan, recipe, data, division)
    narrow = [n for n in plan.nodes.values() if n.weight is not None and n.weight.bits < 8]
    assert narrow
    for node in plan.nodes.values():
        after = found.nodes[node.node]
        if node in narrow:
            assert after.rule == f"{node.rule}; auto" and after.weight is not None
            assert after.weight.bits == 4
        else:
            assert after == node
    how = "their outputs on the data" if has_data else "the weights, without data"
    assert found.notes[-1].startswith(f"weight formats were chosen by the error of {how}: ")


def test_a_tied_weight_has_one_format_for_all(tmp_path: Path) -> None:
    net, recipe = tied(), Recipe("w4a16", "auto", edge_bits=4)
    model, plan = planned(net.save(tmp_path / "t.onnx"), recipe)
    data = read_data([samples(net)], list(model.graph.inputs), 8)
    found = choose_formats(model, plan, recipe, data, Division(footprint=Footprint.of(model, data)))
    nodes = [n for n in model.graph if n.name in found.nodes]
    by_weight: dict[str, set[str]] = {}
    for node in nodes:
        by_weight.setdefault(weight_of(node).name, set()).add(str(found.nodes[node.name].weight))
    assert len(nodes) > len(by_weight)
    assert all(len(specs) == 1 for specs in by_weight.values())


def test_a_rule_may_leave_one_layer_to_the_choice_and_a_target_has_its_say(tmp_path: Path) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    first = next(iter(planned(path, Recipe("w4a16", edge_bits=4))[1].nodes))
    recipe = Recipe("w4a16", edge_bits=4, rules=(Rule(match=first, weight_format="auto"),))
    model, plan = planned(path, recipe)
    found = choose_formats(model, plan, recipe)
    assert {n for n in plan.nodes if found.nodes[n] != plan.nodes[n]} == {first}
    every = Recipe("w4a16", "auto", edge_bits=4)
    model, plan = planned(path, every, "ort")
    chosen = choose_formats(model, plan, every)
    kinds = {n.weight.format.is_table for n in chosen.nodes.values() if n.weight is not None}
    assert kinds == {False}


def test_convolutions_and_eight_bits_keep_to_what_they_are(tmp_path: Path) -> None:
    recipe = Recipe("w8a8", "auto")
    model, plan = planned(cnn().save(tmp_path / "c.onnx"), recipe)
    assert choose_formats(model, plan, recipe) is plan
    recipe = Recipe("w4a8", "auto")
    model, plan = planned(cnn().save(tmp_path / "c.onnx"), recipe)
    found = choose_formats(model, plan, recipe)
    specs = [n.weight for n in found.nodes.values() if n.weight is not None]
    assert all(spec.granularity == "axis" and spec.scale_format == "f32" for spec in specs)


def test_activations_have_no_such_choice() -> None:
    with pytest.raises(InputError, match=r'unknown format "auto"'):
        Recipe("w4a8", activation_format="auto")
