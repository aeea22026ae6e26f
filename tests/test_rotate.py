# SPDX-License-Identifier: Apache-2.0
"""rotate: the float model stays, no node is added, and the error on the data decides."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from models import vit_digits
from qcompile import rotated_weights, targets
from qcompile.annotate import annotate
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.load import load
from qcompile.moments import Source
from qcompile.normalise import normalise
from qcompile.numerics.hadamard import Rotation
from qcompile.numerics.scaling import Scaling
from qcompile.recipe import Recipe
from qcompile.rotatable import edges
from qcompile.rotate import NO_DATA, Rotated, planned, rotate
from qcompile.rotated_weights import Turned, shift_refusal, turn
from qcompile.verify_normalised import check_rotated
from tests.passes.stages import ops
from tests.rotation_nets import GPT, LLAMA, TIED, WIDTH, decoder, outlier_channel, tokens

DATA = Data([tokens()], Batch({"ids": 0}))


def turned(model: ir.Model, seed: int = 0) -> ir.Model:
    """A copy with every edge turned that may be."""
    copy = model.clone()
    weights = Turned(copy.graph)
    for edge in edges(copy.graph):
        if not edge.reason and not shift_refusal(edge):
            scales = np.exp(np.random.default_rng(seed).uniform(-1, 1, edge.block)).tolist()
            rotation = Rotation(edge.block, seed, edge.is_centred)
            turn(edge, Scaling(tuple(scales), 0.5) if edge.bend else rotation, weights)
    weights.remove_unread()
    return copy


def rotated(model: ir.Model, data: Data | None = DATA, **recipe: object) -> Rotated:
    """With 4 bits everywhere where nothing else is asked."""
    chosen = Recipe(**({"preset": "w4a4-dynamic", "edge_bits": 4} | recipe))  # type: ignore[arg-type]
    plan = annotate(model, chosen, targets.get("cpu"), has_data=data is not None)
    return rotate(model, plan, chosen, data, Division())


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items()}


@pytest.mark.parametrize("text", [LLAMA, TIED, GPT], ids=["llama", "tied", "gpt"])
def test_outputs_stay_and_no_node_is_added(text: str) -> None:
    model = decoder(text)
    found = turned(model)
    before = {v.const_value.numpy().tobytes() for v in model.graph.initializers.values()}
    fresh = [n for n, a in weights_of(found).items() if a.tobytes() not in before and a.ndim == 2]
    assert len(fresh) >= 4  # the matrices did change
    assert ops(found) == ops(model)
    check = check_rotated(model, found, DATA)
    assert check.rung == "rotate" and check.passed and check.measured > 0


@pytest.mark.parametrize("text", [LLAMA, TIED, GPT], ids=["llama", "tied", "gpt"])
def test_one_wrong_entry_of_a_turned_weight_fails(text: str) -> None:
    model = decoder(text)
    count = 0
    for name, array in weights_of(turned(model)).items():
        if "_rotated" not in name or array.ndim != 2:
            continue
        broken, wrong = turned(model), array.copy()
        at = np.unravel_index(np.abs(wrong).argmax(), wrong.shape)
        wrong[at] *= -1
        broken.graph.initializers[name].const_value = ir.tensor(wrong, name=name)
        assert not check_rotated(model, broken, DATA).passed, name
        count += 1
    assert count >= 4


@pytest.mark.parametrize("seed", [0, 1])
def test_the_patches_of_a_transformer_are_turned_with_its_stream(seed: int) -> None:
    model = normalise(load(vit_digits.path()))
    found = turned(model, seed)
    assert ops(found) == ops(model)
    assert {e.kind for e in edges(model.graph) if not e.reason} == {
        *("residual stream", "attention values"),
    }
    images = np.random.default_rng(seed).random((3, 1, 8, 8), np.float32)
    data = Data([{"image": images}], Batch({"image": 0}))
    check = check_rotated(model, found, data)
    assert check.passed and check.measured > 0
    kernel = next(n.inputs[1] for n in found.graph if n.op_type == "Conv")
    wrong = kernel.const_value.numpy().copy()
    wrong[0, 0, 0, 0] += 1
    kernel.const_value = ir.tensor(wrong, name=kernel.name)
    assert not check_rotated(model, found, data).passed


def test_the_scales_of_norms_are_one_and_the_shifts_gone() -> None:
    found = weights_of(turned(decoder(GPT)))
    ones = [n for n, a in found.items() if a.shape == (WIDTH,) and (a == 1).all()]
    zeros = [n for n, a in found.items() if a.shape == (WIDTH,) and not a.any()]
    assert len(ones) == 2  # of both norms
    assert zeros == ["b1_rotated"]  # the head has no bias: the other shift stays, turned


def test_a_shift_with_no_place_is_refused() -> None:
    scale = np.ones(WIDTH)
    scale[3] = 0
    edge = edges(decoder(GPT, g3=scale).graph)[0]
    assert shift_refusal(edge) == (
        "MatMul MatMul_y has no bias for the shift of norm LayerNormalization_n3, "
        "whose scale has zeros"
    )
    scale[3] = 1e-3
    edge = edges(decoder(GPT, g3=scale).graph)[0]
    assert shift_refusal(edge).endswith("whose scale is too small beside it")


def test_a_table_and_its_head_stay_one_where_the_scale_is_one_number() -> None:
    even = turned(decoder(TIED, g3=np.full(WIDTH, 1.5)))
    tables = [n for n in even.graph.initializers if n.startswith("emb")]
    assert tables == ["emb_rotated"]
    uneven = turned(decoder(TIED))
    assert sorted(n for n in uneven.graph.initializers if n.startswith("emb")) == [
        *("emb_rotated", "emb_rotated_1"),
    ]


def test_large_weights_wait_in_a_file_and_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(LLAMA)
    eager = weights_of(turned(model))
    monkeypatch.setattr(rotated_weights, "EAGER_BYTES", 0)
    lazy = turned(model)
    kinds = [type(v.const_value) for n, v in lazy.graph.initializers.items() if "_rotated" in n]
    assert ir.LazyTensor in kinds
    found = weights_of(lazy)
    assert found.keys() == eager.keys()
    assert all(np.array_equal(found[n], eager[n]) for n in eager)


def test_an_outlier_channel_is_rotated_away() -> None:
    model = outlier_channel(LLAMA)
    found = rotated(model)
    row = found.rows[0]
    assert row.is_applied and row.kind == "residual stream" and row.reason == ""
    assert row.after.sqnr_db > row.before.sqnr_db + 0.4
    assert row.after.kurtosis < row.before.kurtosis and row.after.crest < row.before.crest
    assert check_rotated(model, found.model, DATA).passed


def test_the_same_seed_gives_the_same_weights() -> None:
    model = outlier_channel(LLAMA)
    first, again, other = (rotated(model, seed=seed) for seed in (0, 0, 5))
    same, others = weights_of(again.model), weights_of(other.model)
    assert all(np.array_equal(a, same[n]) for n, a in weights_of(first.model).items())
    assert any(not np.array_equal(a, others[n]) for n, a in weights_of(first.model).items())
    assert first.rows == again.rows and first.rows[0].seed != other.rows[0].seed


def test_eight_bits_are_good_enough() -> None:
    model = outlier_channel(LLAMA, 3.0)
    found = rotated(model, preset="w8a8-dynamic")
    assert found.model is model and not found.is_changed
    assert "30 are enough" in found.rows[0].reason


def test_without_data_or_with_off_nothing_is_rotated() -> None:
    model = outlier_channel(LLAMA)
    found = rotated(model, None)
    assert found.model is model
    assert [row.reason for row in found.rows[:2]] == [NO_DATA, NO_DATA]
    assert rotated(model, rotation="off").rows == ()


def test_the_dry_run_says_what_the_data_will_decide() -> None:
    model = decoder(LLAMA)
    recipe = Recipe(preset="w4a4-dynamic")
    plan = annotate(model, recipe, targets.get("cpu"), has_data=True)
    rows = planned(model, plan, recipe, DATA)
    assert rows[0].reason == "the error on the calibration data decides"
    assert rows[2].reason == "Mul Mul_h does not commute with a rotation"
    assert not any(row.is_applied for row in rows)


def test_samples_with_nan_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_nan(model: ir.Model, sources: dict[str, Source], *_: object) -> dict[str, np.ndarray]:
        return {n: np.full((4, s.columns), np.nan, np.float32) for n, s in sources.items()}

    monkeypatch.setattr("qcompile.rotate.sample_rows", with_nan)
    found = rotated(outlier_channel(LLAMA))
    assert not found.is_changed
    assert found.rows[0].reason.startswith("it has no samples, or NaN or infinity among them")


def test_a_table_that_would_grow_the_file_too_much_keeps_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = outlier_channel(TIED)
    assert "Gather" in rotated(model).rows[0].reason
    monkeypatch.setattr("qcompile.rotate.MOST_GROWTH", 0.05)
    row = rotated(model).rows[0]
    assert not row.is_applied
    assert row.reason.startswith("a table apart from the head would add 0.6 kB to ")


def test_the_input_of_a_product_is_rotated_at_run_time() -> None:
    up = np.random.default_rng(2).standard_normal((WIDTH, 24))
    up[:, 5] *= 8
    model = decoder(LLAMA, wu=up)
    found = rotated(model)
    row = next(row for row in found.rows if row.value == "h")
    assert row.is_applied and row.is_online
    assert row.reason == (
        "Mul Mul_h does not commute with a rotation; about 62 % of its products' time"
    )
    added = [n.op_type for n in found.model.graph if (n.name or "").startswith("h_rotated")]
    assert added == ["Mul", "Split", "Reshape", "MatMul", "MatMul", "Reshape", "Concat"] * 2
    assert row.transform == "signs, hadamard 16 at 0, 8"
    assert check_rotated(model, found.model, DATA).passed
    plan = annotate(found.model, Recipe(preset="w4a4-dynamic"), targets.get("cpu"), has_data=True)
    assert not any(name.startswith("h_rotated") for name in plan.nodes)  # no weights of the model


def test_a_rotation_that_costs_as_much_as_its_product_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    up = np.random.default_rng(2).standard_normal((WIDTH, 24))
    up[:, 5] *= 8
    monkeypatch.setattr("qcompile.rotate.ONLINE_OUTPUTS", WIDTH + 1)
    row = next(row for row in rotated(decoder(LLAMA, wu=up)).rows if row.value == "h")
    assert not row.is_applied and row.reason.endswith(
        "its products have 32 outputs, and a rotation at run time takes as long as 33"
    )


@pytest.mark.parametrize("preset", ["w4a4", "w4a16"])
def test_nothing_is_rotated_at_run_time_for_static_or_float_inputs(preset: str) -> None:
    up = np.random.default_rng(2).standard_normal((WIDTH, 24))
    up[:, 5] *= 8
    assert not any(row.is_online for row in rotated(decoder(LLAMA, wu=up), preset=preset).rows)


def test_a_product_that_stays_float_decides_nothing() -> None:
    model = decoder(LLAMA)
    recipe = Recipe(preset="w4a4-dynamic")
    plan = annotate(model, recipe, targets.get("cpu"), has_data=True)
    floats = {n: replace(p, weight=None, activation=None) for n, p in plan.nodes.items()}
    assert rotate(model, replace(plan, nodes=floats), recipe, DATA, Division()).rows == ()


def test_a_model_that_comes_in_codes_is_left_alone() -> None:
    model = outlier_channel(LLAMA)
    recipe = Recipe(preset="w4a4-dynamic", edge_bits=4)
    plan = annotate(model, recipe, targets.get("cpu"), has_data=True)
    first, *_ = plan.nodes
    nodes = plan.nodes | {first: replace(plan.nodes[first], is_imported=True)}
    found = rotate(model, replace(plan, nodes=nodes), recipe, DATA, Division())
    assert found.model is model
    assert {row.reason for row in found.rows} == {"the model has codes of its own, which stay"}
