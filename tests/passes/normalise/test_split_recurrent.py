# SPDX-License-Identifier: Apache-2.0
"""A split GRU, RNN or LSTM is the whole one: in every step, and over all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.bodies import all_bodies, nodes_of
from qcompile.body_data import record_bodies
from qcompile.data import Batch, Data
from qcompile.load import load
from qcompile.normalise import named, normalise
from qcompile.passes.normalise.split_recurrent import SplitRecurrent
from qcompile.verdict import Check
from qcompile.verify_normalised import check_normalised, measure_products
from qcompile.verify_split import check_split
from tests.passes.recurrent import NAME, save

ALL_STATES = ("bias", "lengths", "h0")
GRID: list[tuple[str, dict[str, Any]]] = [
    *((op, {}) for op in ("GRU", "RNN", "LSTM")),
    *((op, {"has": (), "is_free": True}) for op in ("GRU", "RNN", "LSTM")),
    *((op, {"direction": "reverse"}) for op in ("GRU", "RNN", "LSTM")),
    *((op, {"directions": 2, "is_free": True}) for op in ("GRU", "RNN", "LSTM")),
    *((op, {"directions": 2, "has": ALL_STATES}) for op in ("GRU", "RNN", "LSTM")),
    *((op, {"direction": "reverse", "has": ALL_STATES}) for op in ("GRU", "RNN", "LSTM")),
    *((op, {"clip": 0.3}) for op in ("GRU", "RNN", "LSTM")),
    *((op, {"size": (1, 1, 1, 1)}) for op in ("GRU", "RNN", "LSTM")),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"linear_before_reset": 1, "has": (), "directions": 2}),
    ("GRU", {"linear_before_reset": 1, "clip": 0.3, "directions": 2, "has": ALL_STATES}),
    ("GRU", {"activations": ["Sigmoid", "Relu"]}),
    ("RNN", {"activations": ["Relu", "Sigmoid"], "directions": 2}),
    ("LSTM", {"has": (*ALL_STATES, "c0", "peepholes"), "directions": 2}),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"input_forget": 1, "has": ("bias", "peepholes"), "clip": 0.2}),
    ("LSTM", {"activations": ["Sigmoid", "Relu", "Softsign"]}),
]


def checks(path: Path, feed: dict, change: Any = None) -> list[Check]:
    source, data = load(path), Data([feed], Batch({}))
    normalised = normalise(source, None, lambda _: True)
    if change is not None:
        change(normalised)
    inside = record_bodies(normalised, data)
    measure_products(normalised, inside)
    originals = {n.name or "": n for n in nodes_of(named(source))}
    steps = check_split(originals, normalised, data, inside)
    return [check_normalised(source, normalised, data, inside), *steps]


@pytest.mark.parametrize(("op", "kind"), GRID)
def test_it_is_the_whole_op(op: str, kind: dict[str, Any], tmp_path: Path) -> None:
    feed = save(tmp_path / "m.onnx", op, **kind)
    whole, steps = checks(tmp_path / "m.onnx", feed)
    assert whole.passed and steps.passed, (whole, steps)
    assert steps.count > 0 and whole.limit < 0.01


def swap(model: ir.Model, name: str) -> None:
    """Two rows of one weight change places, which no size tells."""
    graphs = [model.graph, *(b.graph for b in all_bodies(model.graph))]
    value = next(g.initializers[n] for g in graphs for n in g.initializers if n.endswith(name))
    array = value.const_value.numpy().copy()
    array[[0, 1]] = array[[1, 0]]
    value.const_value = ir.tensor(array, name=value.name)


@pytest.mark.parametrize("op", ["GRU", "RNN", "LSTM"])
@pytest.mark.parametrize("name", ["input_weight", "product_weight"])
def test_two_rows_that_changed_places_are_found(op: str, name: str, tmp_path: Path) -> None:
    """In the step and, as the bound of many steps is no empty one, in the outputs."""
    feed = save(tmp_path / "m.onnx", op)
    found = checks(tmp_path / "m.onnx", feed, lambda model: swap(model, name))
    assert [c.passed for c in found] == [False, False]


@pytest.mark.parametrize(
    ("op", "kind", "reason"),
    [
        ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, "its activations HardSigmoid are"),
        ("RNN", {"activations": ["Relu"], "activation_alpha": [0.1]}, "with parameters"),
        ("RNN", {"layout": 1}, "layout 1 has no kernel"),
    ],
)
def test_reasons(op: str, kind: dict[str, Any], reason: str, tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", op, **kind)
    model, each = ir.load(tmp_path / "m.onnx"), SplitRecurrent()  # ORT refuses some of them
    assert not each(model).modified
    assert [r.node for r in each.refusals] == [NAME] and reason in each.refusals[0].reason


@pytest.mark.parametrize("name", ["w", "r", "b"])
def test_a_computed_weight_stays(name: str, tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", "GRU")
    model, each = ir.load(tmp_path / "m.onnx"), SplitRecurrent()
    value = model.graph.initializers.pop(name)
    value.const_value = None
    model.graph.inputs.append(value)
    assert not each(model).modified
    assert "is no float32 constant" in each.refusals[0].reason


def test_both_directions_have_one_product_of_the_input(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", "GRU", directions=2)
    model = normalise(load(tmp_path / "m.onnx"), None, lambda _: True)
    ops = [n.op_type for n in model.graph]
    assert (ops.count("MatMul"), ops.count("Scan")) == (1, 2)
    assert np.prod(model.graph.initializers[f"{NAME}/input_weight"].shape) == 2 * 18 * 7
