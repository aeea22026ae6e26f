# SPDX-License-Identifier: Apache-2.0
"""What a recipe decides: rules, edges, exclusions, shared weights, coverage."""

from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile import cli
from qcompile.compile import plan_only
from qcompile.errors import InputError
from qcompile.recipe import Recipe, Rule
from tests.cli.run import run
from tests.pipeline.nets import Net, cnn, mlp, samples, tied

FIRST, MIDDLE, LAST = (f"/{n}_product/MatMul" for n in ("first", "middle", "y"))


def rows(net: Net, folder: Path, recipe: Recipe, target: str = "cpu") -> dict[str, dict]:
    """The manifest's row of every weighted node."""
    made = qcompile.compile(
        net.save(folder / "m.onnx"),
        target,
        folder / "m.qc",
        recipe=recipe,
        calibration_data=samples(net),
        force=True,
    )
    return {row["node"]: row for row in made.content["nodes"]}


def formats(found: dict[str, dict]) -> dict[str, str | None]:
    return {name: r["weight"] and r["weight"].split("/")[0] for name, r in found.items()}


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_edge_bits(bits: int, tmp_path: Path) -> None:
    found = formats(rows(mlp(), tmp_path, Recipe(preset="w2a8", edge_bits=bits)))
    edge = f"int{max(bits, 2)}"  # the preset has 2 anyway
    assert found == {FIRST: edge, MIDDLE: "int2", LAST: edge}


def test_edges_of_every_path(tmp_path: Path) -> None:
    """Two inputs, two outputs: the first and the last weighted node of each path is an edge."""
    net = Net()
    a = net.linear(net.input("a", ["batch", 64]), 64, 64, "from_a")
    b = net.linear(net.input("b", ["batch", 64]), 64, 64, "from_b")
    middle = net.linear(net.node("Add", [a, b], "sum"), 64, 64, "middle")
    net.linear(middle, 64, 8, "y")
    net.node("Softmax", [b], "z")
    net.output("y", ["batch", 8])
    net.output("z", ["batch", 64])
    found = formats(rows(net, tmp_path, Recipe(preset="w4a8-dynamic")))
    assert found == {
        "/from_a_product/MatMul": "int8",
        "/from_b_product/MatMul": "int8",
        "/middle_product/MatMul": "uint4",
        "/y_product/MatMul": "int8",
    }


def test_rules(tmp_path: Path) -> None:
    recipe = Recipe(
        preset="w4a8-dynamic",
        rules=(
            Rule(match=".*", weight_format="int3", source="r rule 1"),
            Rule(match="/first.*", preset="w2a16", source="r rule 2"),
            Rule(match="/y_.*", op_types=("Conv",), exclude=True, source="r rule 3"),
            Rule(match="/middle_product/MatMul", block_size=64, source="r rule 4"),
        ),
    )
    found = rows(mlp(), tmp_path, recipe)
    assert {n: (r["weight"], r["activation"], r["decided_by"]) for n, r in found.items()} == {
        FIRST: ("uint2/block(axis=1,size=32)/asym/f16", None, "r rule 2"),
        MIDDLE: ("uint4/block(axis=1,size=64)/asym/f16", "int8/row/sym/f32", "r rule 4"),
        LAST: ("int3/block(axis=1,size=32)/sym/f16", "int8/row/sym/f32", "r rule 1"),
    }


def test_rule_about_nothing_is_noted(tmp_path: Path) -> None:
    recipe = Recipe(
        preset="w4a16", rules=(Rule(match="/frist.*", exclude=True, source="r rule 1"),)
    )
    made = qcompile.compile(mlp().save(tmp_path / "m.onnx"), recipe=recipe)
    assert made.content["notes"] == ['r rule 1: "/frist.*" is about no weighted node of the model']


@pytest.mark.parametrize("suffix", [".yaml", ".toml"])
def test_flag_over_recipe_over_preset_over_default(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = {
        ".yaml": "preset: w4a16\nedge_bits: 6\nrules:\n- match: /middle.*\n  weight_format: int3\n",
        ".toml": 'preset = "w4a16"\nedge_bits = 6\n[[rules]]\nmatch = "/middle.*"\n'
        'weight_format = "int3"\n',
    }
    path, recipe = mlp().save(tmp_path / "m.onnx"), tmp_path / f"r{suffix}"
    recipe.write_text(text[suffix])

    def found(*flags: str) -> list[str | None]:
        arguments = [path, "--quiet", "--force", "--recipe", recipe, *flags]
        assert run(capsys, *arguments).code == 0
        content = qcompile.Artifact.read(tmp_path / "m.qc").content
        return [r["weight"] and r["weight"].split("/")[0] for r in content["nodes"]]

    assert found() == ["uint6", "int3", "uint6"]  # recipe over preset and default
    assert found("--edge-bits", "5") == ["uint5", "int3", "uint5"]
    assert found("--preset", "w7a16") == ["uint7", "int3", "uint7"]
    assert found("--nodes-to-exclude", "/middle.*") == ["uint6", None, "uint6"]
    assert "compile" in cli.COMMANDS


def test_excluded_nodes_and_coverage(tmp_path: Path) -> None:
    recipe = Recipe(preset="w4a8", rules=(Rule(match="/middle.*", exclude=True, source="me"),))
    made = qcompile.compile(
        mlp().save(tmp_path / "m.onnx"), recipe=recipe, calibration_data=samples(mlp())
    )
    row = next(r for r in made.content["nodes"] if r["node"] == MIDDLE)
    assert (row["weight"], row["kernel"], row["reason"]) == (None, None, "excluded by me")
    assert made.content["coverage"] == (64 * 64 + 64 * 16) / (2 * 64 * 64 + 64 * 16)


def test_op_types(tmp_path: Path) -> None:
    recipe = Recipe(preset="w8a8", op_types_to_quantize=("Gemm",))
    found = rows(cnn(), tmp_path, recipe)
    reasons = {r["op"]: r["reason"] for r in found.values()}
    assert reasons == {"Conv": "Conv is not among --op-types-to-quantize", "Gemm": None}


def test_coverage_counts_a_tied_weight_once(tmp_path: Path) -> None:
    recipe = Recipe(preset="w4a16", rules=(Rule(match="/middle.*", exclude=True, source="me"),))
    found = qcompile.compile(tied().save(tmp_path / "m.onnx"), recipe=recipe)
    assert found.content["coverage"] == 40 * 64 / (40 * 64 + 64 * 64)
    packed = {r["weight_tensor"]: r["packed_bytes"] for r in found.content["nodes"] if r["weight"]}
    assert len(packed) == 1


def test_coverage_counts_what_has_no_kernel(tmp_path: Path) -> None:
    """A transposed convolution with dilations and a product for every channel stay float."""
    net = Net()
    x = net.input("x", ["batch", 8, 16])
    c = net.node("ConvTranspose", [x, net.weight("up", 8, 8, 1)], "c", dilations=[2])
    d = net.node("Einsum", [c, net.weight("stack", 8, 16, 16)], "d", equation="bci,cij->bcj")
    net.linear(d, 16, 4, "y")
    net.output("y", ["batch", 8, 4])
    found = rows(net, tmp_path, Recipe(preset="w8a8-dynamic"))
    assert {n: r["reason"] for n, r in found.items()} == {
        "/c/ConvTranspose": "it is a ConvTranspose that is no convolution of pixels "
        "(docs/normalise.md)",
        "/d/Einsum": "its equation is no product of matrices",
        "/y_product/MatMul": None,
    }
    assert [r["elements"] for r in found.values()] == [64, 8 * 16 * 16, 64]


def test_canonical_forms_are_covered(tmp_path: Path) -> None:
    """A 1-D convolution, a weight on the left, and one of three dimensions."""
    net = Net()
    x = net.input("x", ["batch", 8, 16])
    c = net.node("Conv", [x, net.weight("conv", 8, 8, 1)], "c")
    d = net.node("MatMul", [net.weight("left", 8, 8), c], "d")
    e = net.node("MatMul", [d, net.weight("deep", 1, 16, 16)], "e")
    net.linear(e, 16, 4, "y")
    net.output("y", ["batch", 8, 4])
    found = rows(net, tmp_path, Recipe(preset="w8a8-dynamic"))
    assert [r["reason"] for r in found.values()] == [None] * 4
    assert [r["elements"] for r in found.values()] == [64, 64, 256, 64]


def shared() -> Net:
    """Two products of one weight."""
    net = mlp()
    net.node("MatMul", ["middle", "first.weight"], "z")
    net.output("z", ["batch", 64])
    return net


def test_shared_weight_is_stored_once(tmp_path: Path) -> None:
    found = rows(shared(), tmp_path, Recipe(preset="w4a8-dynamic"))
    tensors = [r["weight_tensor"] for r in found.values()]
    assert tensors.count("first.weight_nk") == 2
    assert len({r["weight"] for r in found.values() if r["weight_tensor"] == tensors[0]}) == 1


def test_shared_weight_takes_what_all_can_run(tmp_path: Path) -> None:
    """One reader asks for blocks, which static activations cannot take."""
    rule = Rule(match=FIRST, preset="w4a16")
    found = rows(shared(), tmp_path, Recipe(preset="w8a8", rules=(rule,)))
    assert found[FIRST]["weight"] == found["/z/MatMul"]["weight"] == "int8/axis(axis=0)/sym/f32"


def test_float_activations_beside_static_ones(tmp_path: Path) -> None:
    recipe = Recipe(preset="w8a8", rules=(Rule(match=LAST, preset="w4a16"),))
    found = rows(mlp(), tmp_path, recipe)
    assert (found[MIDDLE]["kernel"], found[LAST]["kernel"]) == ("QMatMul static", "QMatMul f32")


def test_dynamic_activations_beside_static_ones(tmp_path: Path) -> None:
    recipe = Recipe(preset="w8a8", rules=(Rule(match=LAST, preset="w4a8-dynamic"),))
    found = rows(mlp(), tmp_path, recipe)
    assert (found[MIDDLE]["kernel"], found[LAST]["kernel"]) == ("QMatMul static", "QMatMul dynamic")


def test_shared_weight_of_an_excluded_node(tmp_path: Path) -> None:
    recipe = Recipe(preset="w8a8", rules=(Rule(match="/z/.*", exclude=True, source="me"),))
    found = rows(shared(), tmp_path, recipe)
    assert found[FIRST]["reason"] == (
        "it shares its weight with /z/MatMul, which stays float: excluded by me"
    )


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_calibration_methods(method: str, tmp_path: Path) -> None:
    found = rows(mlp(), tmp_path, Recipe(preset="w8a4", calibration_method=method))
    assert all(r["activation"] == "uint4/tensor/asym/f32" for r in found.values())


@pytest.mark.parametrize(
    ("preset", "asked", "same"),
    [("w8a4", None, "mse"), ("w8a7", None, "mse"), ("w8a8", None, "minmax")],
)
def test_default_methods(preset: str, asked: str | None, same: str, tmp_path: Path) -> None:
    """The default is one of the methods by the bits of the codes, and --dry-run says so."""
    path, data, found = mlp().save(tmp_path / "m.onnx"), samples(mlp(), 64), {}
    data["x"][0, 0] *= 30  # an outlier, which mse clips
    for method in (asked, "minmax", "mse"):
        recipe = Recipe(preset=preset, calibration_method=method)
        plan, _ = plan_only(path, "cpu", recipe, data)
        made = qcompile.compile(path, recipe=recipe, calibration_data=data, force=True)
        found[method] = made.measured["sqnr_db"]
        told = any("come from --calibration-method mse" in note for note in plan.notes)
        assert told == (method is None and same == "mse")
    assert found[None] == found[same] and found["minmax"] != found["mse"]


def test_seed_of_random_inputs(tmp_path: Path) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    found = [
        qcompile.compile(path, recipe=Recipe(seed=seed), force=True).measured["sqnr_db"]
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]


def test_signed_static_activations(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        rows(mlp(), tmp_path, Recipe(preset="w8a8", activation_format="int8"))
    assert str(caught.value) == (
        "static activations are unsigned integers; int8 was asked: use uint8"
    )


def test_a_format_for_all_passes_by_what_has_no_kernel_whatever_the_format(tmp_path: Path) -> None:
    """Convolutions with float activations stay float as they do without it; a rule is refused."""
    model = cnn().save(tmp_path / "m.onnx")
    plan, _ = plan_only(model, "cpu", Recipe("w4a16", "nf4", edge_bits=4))
    nodes = {n.op_type: n for n in plan.nodes.values()}
    assert str(nodes["Gemm"].weight).startswith("nf4/")
    assert nodes["Conv"].reason == "Conv has no kernel for float activations: use a8-dynamic or a8"
    rule = Rule(op_types=("Conv",), weight_format="nf4", source="r rule 1")
    with pytest.raises(InputError, match=r"Conv has no kernel for float activations.*r rule 1"):
        plan_only(model, "cpu", Recipe("w4a16", rules=(rule,)))


def test_impossible_requests_all_at_once(tmp_path: Path) -> None:
    recipe = Recipe(preset="w8a8", block_size=64, rules=(Rule(match=LAST, exclude=True),))
    with pytest.raises(InputError) as caught:
        rows(mlp(), tmp_path, recipe)
    assert str(caught.value).splitlines() == [
        f'MatMul "{name}": static activations take one scale an output; '
        "int8/block(axis=1,size=64)/sym/f16 was asked: use a8-dynamic (preset w8a8)"
        for name in (FIRST, MIDDLE)
    ]


def test_recipe_is_in_the_manifest(tmp_path: Path) -> None:
    recipe = Recipe(preset="w4a16", seed=3, rules=(Rule(match="/y_.*", exclude=True),))
    made = qcompile.compile(mlp().save(tmp_path / "m.onnx"), recipe=recipe)
    stored = made.content["recipe"]
    assert (stored["preset"], stored["seed"]) == ("w4a16", 3)
    assert np.array_equal([r["match"] for r in stored["rules"]], ["/y_.*"])
