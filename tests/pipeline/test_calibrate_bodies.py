# SPDX-License-Identifier: Apache-2.0
"""Weights inside Loop and Scan make up for one another's errors on what goes into the steps."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from qcompile import runtime_ops, targets
from qcompile.annotate import annotate
from qcompile.bodies import all_bodies, closed_bodies
from qcompile.body_data import Kept, Recording
from qcompile.calibrate import calibrate
from qcompile.calibrate_bodies import calibrate_bodies
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.recipe import Recipe
from qcompile.session import open_model, session_options
from qcompile.transform import transform
from qcompile.verdict import Check
from qcompile.verify_compensated import check_compensated
from tests.body_nets import save

STEPS, SIZE = 20, 64
SCAN = """<ir_version: 8, opset_import: ["" : 17]>
f (float[n,20,64] x, float[64,64] w, float[64,64] v, float[64] b) => (float[20,n,64] o)
{ t = Transpose <perm = [1,0,2]> (x) h = ReduceMean <axes = [0], keepdims = 0> (t)
  y, o = Scan <num_scan_inputs = 1, body = g (float[n,64] s, float[n,64] x1)
    => (float[n,64] z, float[n,64] o1)
    { m = MatMul (s, w) k = MatMul (x1, v) c = Add (k, b) j = Add (m, c) z = Tanh (j)
      o1 = Identity (z) }> (h, t) }"""
WEIGHTS_OF = {"Scan_y/body/w_nk", "Scan_y/body/v_nk"}


def scan(path: Path) -> NDArray[np.float32]:
    """A recurrent network, and inputs [num, steps, 64] whose elements depend on one another."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(SCAN)
    made = {"w": (SIZE, SIZE), "v": (SIZE, SIZE), "b": (SIZE,)}
    for name, shape in made.items():
        array = (rng.standard_normal(shape) / 10).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for value in [v for v in model.graph.input if v.name in made]:
        model.graph.input.remove(value)
    onnx.save(model, path)
    mixed = rng.standard_normal((96, STEPS, 8)) @ rng.standard_normal((8, SIZE))
    return np.maximum(mixed, 0).astype(np.float32)


class Found:
    """The statistics of all graphs of a model."""

    def __init__(self, path: Path, feed: dict[str, NDArray], **recipe: Any) -> None:
        self.recipe = Recipe(preset="w4a8", **recipe)
        self.model = normalise(load(path))
        batch = Batch.of(list(self.model.graph.inputs))
        data = Data(list(batch.split(feed)), batch)
        self.plan = annotate(self.model, self.recipe, targets.get("cpu"), has_data=True)
        given = self.model, self.plan, self.recipe, data
        self.stats = calibrate_bodies(*given, calibrate(*given), Division())
        self.quantized = transform(self.model, self.plan, self.stats, self.recipe)

    def error(self, feed: dict[str, NDArray]) -> float:
        """Mean squared error of the QDQ graph's first output."""
        options = session_options(optimise=False)
        runtime_ops.register(options)
        both = (open_model(m, options) for m in (self.quantized, self.model))
        found, wanted = (session.run(None, feed)[0] for session in both)
        return float(((found - wanted) ** 2).mean())

    def checks(self) -> list[Check]:
        """Of every body."""
        bodies = closed_bodies(self.model), closed_bodies(self.quantized)
        return [
            check
            for path in bodies[0]
            for check in check_compensated(bodies[0][path], bodies[1][path], self.stats)
        ]


def test_steps_compensate_and_correct(tmp_path: Path) -> None:
    """Of samples that calibration has not seen, the error is half of that of rounding at most."""
    path = tmp_path / "m.onnx"
    x = scan(path)
    seen, held = {"x": x[:64]}, {"x": x[64:]}
    nearest = Found(path, seen, weight_rounding="nearest", bias_correction=False)
    found = Found(path, seen)
    assert nearest.stats.compensated == {} and nearest.stats.means == {}
    assert found.stats.compensated.keys() == WEIGHTS_OF
    assert found.stats.means.keys() == {"Scan_y/body/s", "Scan_y/body/x1"}
    assert found.error(held) < nearest.error(held) / 2
    assert len(found.checks()) == 2 and all(check.passed for check in found.checks())


def test_a_wrong_code_in_a_body_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    found = Found(path, {"x": scan(path)})
    body = next(all_bodies(found.quantized.graph))
    value = next(v for n, v in body.graph.initializers.items() if "w_nk" in n and "code" in n)
    codes = value.const_value.numpy().copy()
    codes.flat[0] ^= 1
    value.const_value = ir.tensor(codes, dtype=value.const_value.dtype, name=value.name)
    assert not all(check.passed for check in found.checks())


def test_what_two_bodies_share_keeps_the_nearest_codes(tmp_path: Path) -> None:
    """Each branch with its own codes would be two weights in the file."""
    path = tmp_path / "m.onnx"
    feeds = save(path, "if")
    assert Found(path, feeds[0]).stats.compensated.keys() == {"If_y/then_branch/v_nk"}
    model = onnx.load(path)
    for branch in model.graph.node[1].attribute:
        branch.g.node[0].input[1] = "v"
    onnx.save(model, path)
    assert Found(path, feeds[0]).stats.compensated == {}


def test_steps_of_a_run_that_are_kept() -> None:
    run = [{"i": np.array(i)} for i in range(101)]
    for steps, wanted in ((3, [0, 64, 100]), (5, [0, 32, 64, 96, 100]), (200, list(range(101)))):
        assert [i for i, _ in Kept(steps).of_run(iter(run))] == wanted
    recording = Recording()
    for _ in range(3):
        recording.add(iter(run), Kept(5, 8))
    assert len(recording.feeds) == 8 and recording.most_steps == 101


def test_bytes_that_are_kept() -> None:
    """What all steps of a run are given counts once."""
    shared = np.zeros(1000, np.uint8)
    recording = Recording()
    for _ in range(4):
        run = ({"s": shared, "x": np.zeros(100, np.uint8)} for _ in range(3))
        recording.add(run, Kept(num_bytes=1500))
    assert recording.num_bytes == 1500 and len(recording.feeds) == 5
