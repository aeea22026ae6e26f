# SPDX-License-Identifier: Apache-2.0
"""What a spec leaves to the weight: the best float of fp<b>, units of scales, tied weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile.annotate import annotate
from qcompile.formats import get
from qcompile.formats.minifloat import SEARCHED, splits
from qcompile.graph import table_attributes
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.observers.weight_range import squared_error
from qcompile.pack import format_of
from qcompile.recipe import Recipe
from qcompile.settle_formats import sample_of, settle_formats, settled_spec
from qcompile.spec import QuantSpec
from qcompile.targets.cpu import CPU
from tests.pipeline.nets import mlp

RNG = np.random.default_rng


def weights(seed: int) -> list[NDArray[np.float32]]:
    """Flat, normal and heavy tails."""
    rng = RNG(seed)
    shape = (48, 96)
    found = rng.uniform(-1, 1, shape), rng.standard_normal(shape), rng.standard_t(2, shape)
    return [each.astype(np.float32) for each in found]


@pytest.mark.parametrize("bits", range(3, 9))
@pytest.mark.parametrize("where", ["axis(axis=0)/sym/f32", "block(axis=1,size=32)/sym/f16"])
def test_the_search_is_never_worse_than_a_fixed_float(bits: int, where: str) -> None:
    for weight in weights(bits):
        found = settled_spec(weight, QuantSpec.parse(f"fp{bits}/{where}"))
        assert found.format.name in splits(bits)
        assert settled_spec(weight, found) == found
        assert QuantSpec.parse(str(found)) == found
        fixed = {name: QuantSpec.parse(f"{name}/{where}") for name in splits(bits)}
        if where.startswith("axis"):
            errors = {name: squared_error(weight, spec) for name, spec in fixed.items()}
            assert squared_error(weight, found) == min(errors.values())
            worst = replace(found, format=get(max(errors, key=errors.__getitem__)))
            assert squared_error(weight, worst) > min(errors.values())


def test_tails_take_exponents_and_flat_weights_mantissas() -> None:
    flat, _, heavy = weights(1)
    spec = QuantSpec.parse("fp6/tensor/sym/f32")
    found = [settled_spec(weight, spec).format.name for weight in (flat, heavy)]
    assert found[0] == "e1m4" and found[1] in ("e3m2", "e4m1")


def test_scales_and_entries_follow_the_float_that_is_taken() -> None:
    weight = weights(2)[2]
    found = settled_spec(weight, QuantSpec.parse("fp8/block(axis=1,size=16)/sym/ue4m3"))
    largest = found.format.absmax(symmetric=True)
    unit = float(np.abs(weight).max()) / (448 * largest)
    assert found.scale_format == f"ue4m3*{float(np.float32(unit))!r}"
    narrow = settled_spec(weight, QuantSpec.parse("fp8_int16/axis(axis=0)/sym/f32"))
    assert narrow.format == get(narrow.format.name) and narrow.format.entry_bits <= 16


def test_names_of_searched_floats() -> None:
    assert tuple(f"fp{b}" for b in range(3, 9)) == SEARCHED
    assert [get(name).bits for name in SEARCHED] == list(range(3, 9))
    assert all(get(name).is_fitted for name in SEARCHED)


def test_a_sample_has_whole_rows_that_are_apart() -> None:
    weight = np.arange(40, dtype=np.float32).reshape(10, 4)
    assert np.array_equal(sample_of(weight, 40), weight)
    assert sample_of(weight, 12)[:, 0].tolist() == [0, 16, 32]
    assert sample_of(weight, 1).shape == (1, 4)


def test_a_float_that_was_searched_runs(tmp_path: Path) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    artifact = qcompile.compile(path, recipe=Recipe("w4a16", "fp4"), output=tmp_path / "m.qc")
    kept = [QuantSpec.parse(row["weight"]).format.name for row in artifact.content["nodes"]]
    assert len(kept) == 3 and set(kept) <= set(splits(4))


def test_a_fitted_format_is_read_with_the_table_of_its_node() -> None:
    table = (-9, -5, 1, 8)
    found = {"format": "kmeans2", "bits": 2, "is_signed": 1} | table_attributes(table)
    node = ir.node("QMatMul", [], attributes=found)
    assert format_of(node).table == table != get("kmeans2").table
    known = {"format": "e2m1", "bits": 4} | table_attributes(get("e2m1").table or ())
    fixed = ir.node("QMatMul", [], attributes=found | known)
    assert format_of(fixed) == get("e2m1")


def test_every_node_of_a_plan_is_settled(tmp_path: Path) -> None:
    model = normalise(load(mlp().save(tmp_path / "m.onnx")))
    plan = annotate(model, Recipe("w4a16", "fp4"), CPU, has_data=False)
    open_specs = [n.weight for n in plan.nodes.values() if n.weight is not None]
    settled = settle_formats(model, plan)
    specs = [n.weight for n in settled.nodes.values() if n.weight is not None]
    assert open_specs and all(spec.format.is_fitted for spec in open_specs)
    assert len(specs) == len(open_specs) and not any(spec.format.is_fitted for spec in specs)


def test_levels_of_few_bits_are_bytes_where_that_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    even = rng.standard_normal((8, 512)).astype(np.float32)
    spiky = even.copy()
    spiky[:, 0] = 2000
    for weight, bits in ((even, 8), (spiky, 16)):
        found = settled_spec(weight, QuantSpec.parse("kmeans4/axis(axis=0)/sym/f32"))
        assert found.format.entry_bits == bits
    wide = settled_spec(even, QuantSpec.parse("kmeans5/axis(axis=0)/sym/f32"))
    assert wide.format.entry_bits == 16
