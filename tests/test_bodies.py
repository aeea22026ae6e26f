# SPDX-License-Identifier: Apache-2.0
"""Bodies as models of their own: opened, closed again, and fed with what they get."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.bodies import all_bodies, captured, closed_bodies, opened
from qcompile.body_data import body_data, record_bodies
from qcompile.data import Batch, Data
from qcompile.load import load
from qcompile.normalise import named
from qcompile.session import open_model
from tests.body_nets import NETS, save
from tests.passes.graphs import lines_of


def model(name: str, folder: Path) -> tuple[ir.Model, Data]:
    feeds = save(folder / "m.onnx", name)
    return named(load(folder / "m.onnx")), Data(feeds, Batch({}))


@pytest.mark.parametrize("name", NETS)
def test_opening_leaves_the_model_as_it_was(name: str, tmp_path: Path) -> None:
    found, _ = model(name, tmp_path)
    before = lines_of(found)
    with opened(found) as parts:
        assert len(parts) == 1 + len(list(all_bodies(found.graph)))
        for part in parts[1:]:
            assert captured(part.graph) == []
        assert lines_of(found) != before or not any(
            "captures" in n.metadata_props for n in found.graph
        )
    assert lines_of(found) == before


def test_a_value_renamed_outside_keeps_its_name_inside(tmp_path: Path) -> None:
    found, _ = model("if", tmp_path)
    names = [v.name for v in closed_bodies(found)["If_y/then_branch"].graph.inputs]
    with opened(found) as parts:
        next(n for n in parts[0].graph if n.op_type == "MatMul").outputs[0].name = "other"
    assert [v.name for v in closed_bodies(found)["If_y/then_branch"].graph.inputs] == names
    assert names == ["If_y/then_branch/a"]


def test_a_holder_that_went_stays_away(tmp_path: Path) -> None:
    found, _ = model("if", tmp_path)
    with opened(found) as parts:
        graph = parts[0].graph
        holder = next(n for n in graph if n.op_type == "If")
        graph.outputs[0] = graph[0].outputs[0]
        graph.remove(holder, safe=True)
    assert list(all_bodies(found.graph)) == []


@pytest.mark.parametrize("name", NETS)
def test_recorded_steps_give_what_the_model_gives(name: str, tmp_path: Path) -> None:
    """The last step of a Loop or Scan, or the branch that ran, makes the model's first output."""
    found, data = model(name, tmp_path)
    bodies = closed_bodies(found)
    for feed in data:
        inside = record_bodies(found, Data([feed], Batch({})))
        wanted = open_model(found).run(None, feed)[0]
        outer = next(iter(all_bodies(found.graph)))
        ran = [p for p, r in inside.items() if r.feeds and p.startswith(f"{outer.holder.name}/")]
        if not ran:  # a Loop of no steps
            assert np.array_equal(wanted, feed["x"])
            continue
        path = min(ran, key=len)
        out = open_model(bodies[path]).run(None, inside[path].feeds[-1])
        index = 1 if outer.holder.op_type == "Loop" else 0
        assert np.allclose(out[index], wanted, rtol=0, atol=0)


def test_steps_are_counted_and_three_are_kept(tmp_path: Path) -> None:
    found, data = model("scan", tmp_path)
    recording = record_bodies(found, data)["Scan_y/body"]
    assert recording.most_steps == 5 and len(recording.feeds) == 3
    x = next(iter(data))["x"]
    names = [v.name for v in closed_bodies(found)["Scan_y/body"].graph.inputs]
    assert names[1] == "Scan_y/body/x1"
    kept = [feed[names[1]] for feed in recording.feeds]  # backwards: steps 0, 4 and 2
    assert all(np.array_equal(a, x[i]) for a, i in zip(kept, (4, 2, 0), strict=True))


def test_a_condition_ends_a_loop(tmp_path: Path) -> None:
    found, data = model("loop", tmp_path)
    feed = dict(next(iter(data))) | {"t": np.array(50)}
    value = next(
        v
        for b in all_bodies(found.graph)
        for v in b.graph.initializers.values()
        if v.shape == ir.Shape([])
    )
    value.const_value = ir.tensor(np.float32(-1e9), name=value.name)
    assert record_bodies(found, Data([feed], Batch({})))["Loop_y/body"].most_steps == 1


def test_what_cannot_be_shown_is_no_error(tmp_path: Path) -> None:
    """A captured value whose type nobody knows."""
    found, data = model("if", tmp_path)
    next(n for n in found.graph if n.op_type == "MatMul").outputs[0].type = None
    inside = record_bodies(found, data)
    assert all(r.problem and not r.feeds for r in inside.values())
    made = body_data(inside["If_y/else_branch"], closed_bodies(found)["If_y/else_branch"])
    assert isinstance(made, str) and "type" in made


def test_a_branch_that_does_not_run_has_random_inputs(tmp_path: Path) -> None:
    found, data = model("if", tmp_path)
    inside = record_bodies(found, Data([next(iter(data))], Batch({})))
    assert [bool(r.feeds) for _, r in sorted(inside.items())] == [False, True]
    made = body_data(inside["If_y/else_branch"], closed_bodies(found)["If_y/else_branch"])
    assert isinstance(made, Data) and made.is_synthetic
