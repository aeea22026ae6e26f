# SPDX-License-Identifier: Apache-2.0
"""Scales of activations by time step: compiled, verified, nearer to the float model by step."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

import qcompile
from models import denoiser
from models.files import Session, open_session
from qcompile.artifact import Artifact, load
from qcompile.data import read_data
from qcompile.errors import InputError, VerificationError
from qcompile.graph import DOMAIN
from qcompile.load import load as load_model
from qcompile.passes.lower.lowered import BIAS, MULTIPLIER
from qcompile.recipe import Recipe
from qcompile.step_tables import table_of_steps
from qcompile.timesteps import by_timestep
from tests.pipeline.nets import Net
from tests.pipeline.step_nets import GAINS, STEPS, growing, samples


def made(net: Net, folder: Path, data: Any = None, target: str = "cpu", **recipe: Any) -> Artifact:
    chosen = {"preset": "w4a4", "edge_bits": 4, "effort": "quick", "timestep_input": "t"} | recipe
    return qcompile.compile(
        net.save(folder / "m.onnx"),
        target,
        recipe=Recipe(**chosen),
        calibration_data=samples(net) if data is None else data,
        force=True,
    )


def errors_by_step(net: Net, folder: Path, artifact: Artifact) -> NDArray[np.float64]:
    """Mean squared error of new samples against the float model, for every step."""
    sessions = open_session(folder / "m.onnx"), load(artifact.folder, trust_library=True)
    found = []
    for feed in samples(net, 16, seed=2):
        y, wanted = (session.run(None, feed)[0] for session in reversed(sessions))
        found.append(np.square(y.astype(np.float64) - wanted).mean())
    return np.array(found).reshape(STEPS, -1).mean(1)


@pytest.mark.parametrize("preset", ["w4a4", "w8a8", "w8a4"])
def test_every_step_is_nearer_to_the_float_model(preset: str, tmp_path: Path) -> None:
    net, found = growing(), {}
    for name in (None, "t"):
        artifact = made(net, tmp_path, samples(net, 32), preset=preset, timestep_input=name)
        assert all(c["passed"] for c in artifact.measured["checks"])
        found[name] = errors_by_step(net, tmp_path, artifact)
    smaller = GAINS[-1] / 2 > GAINS  # the static scale is that of the last step, or nearly
    assert (found["t"][smaller] < found[None][smaller]).all()


def test_all_codes_stay_codes(tmp_path: Path) -> None:
    """The products and the table have the codes of a static artifact, but for their operands."""
    artifact = made(growing(), tmp_path)
    nodes = [n for n in artifact.model().graph if n.domain == DOMAIN]
    ops = [n.op_type for n in nodes]
    assert ops == ["QConv", "QConv", "QLut", "QConv", "QMatMul"]
    for node in nodes:
        places = [1] if node.op_type == "QLut" else [BIAS, MULTIPLIER]
        for place in places:
            table = table_of_steps(node.inputs[place])
            assert table is not None and len(table.rows) == STEPS
    assert "lower: tables by time step" in {c["rung"] for c in artifact.measured["checks"]}
    note = "6 of 6 activations have a scale for each of up to 16 buckets of the time step t"
    assert any(note in each for each in artifact.content["notes"])


@pytest.mark.parametrize("preset", ["w4a4", "w8a8"])
def test_equal_scales_are_the_static_graph(preset: str, tmp_path: Path) -> None:
    """Every step has the same samples: the outputs are those of one scale, bit for bit."""
    net = growing(gains=np.ones(STEPS, np.float32))
    x = np.random.default_rng(3).standard_normal((16, 3, 8, 8)).astype(np.float32)
    data = [{"x": x, "t": np.full(16, step)} for step in range(STEPS)]
    inputs = list(load_model(net.save(tmp_path / "m.onnx")).graph.inputs)
    ordered = by_timestep(read_data(data, inputs, 256), inputs, "t").feeds
    outputs = {}
    for name in (None, "t"):
        artifact = made(net, tmp_path, ordered, preset=preset, timestep_input=name)
        session = load(artifact.folder, trust_library=True)
        outputs[name] = [session.run(None, feed)[0] for feed in samples(net, seed=4)]
    for one, other in zip(outputs[None], outputs["t"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [
        ((), TensorProto.INT64),
        ((1,), TensorProto.INT64),
        (("batch",), TensorProto.INT32),
        ((), TensorProto.INT32),
    ],
)
def test_forms_of_the_step(dims: tuple, dtype: int, tmp_path: Path) -> None:
    """A number, [1] and [batch]; a step beyond those of the data has the scales of the last."""
    net = growing(dims, dtype, np.r_[10.0, np.full(99, 10.0)].astype(np.float32))
    artifact = made(net, tmp_path)
    assert all(c["passed"] for c in artifact.measured["checks"])
    session = load(artifact.folder, trust_library=True)
    feed = samples(net)[-1]
    beyond = feed | {"t": np.asarray(feed["t"] + 50, feed["t"].dtype)}
    for one, other in zip(session.run(None, feed), session.run(None, beyond), strict=True):
        np.testing.assert_array_equal(one, other)


def test_buckets_share_their_scales(tmp_path: Path) -> None:
    artifact = made(growing(), tmp_path, timestep_buckets=3)
    tables = [table_of_steps(n.inputs[MULTIPLIER]) for n in products(artifact.model())]
    assert [len(t.rows) for t in tables if t] == [3] * 4


def test_cache_gives_the_same(tmp_path: Path) -> None:
    """What calibration found of every bucket is read back; another number of buckets is refused."""
    net, cache = growing(), tmp_path / "cache.npz"
    path, found = net.save(tmp_path / "m.onnx"), []
    for buckets in (4, 4, 2):
        recipe = Recipe(preset="w8a8", timestep_input="t", timestep_buckets=buckets, effort="quick")
        if buckets == 2:
            with pytest.raises(InputError, match="is for another recipe"):
                compiled(path, recipe, cache)
            continue
        session = load(compiled(path, recipe, cache).folder, trust_library=True)
        found.append([session.run(None, feed)[0] for feed in samples(net)])
    np.testing.assert_array_equal(found[0], found[1])


def compiled(path: Path, recipe: Recipe, cache: Path) -> Artifact:
    data = samples(growing())
    return qcompile.compile(
        path, recipe=recipe, calibration_data=data, calibration_cache=cache, force=True
    )


def products(model: ir.Model) -> list[ir.Node]:
    return [n for n in model.graph if n.op_type in ("QConv", "QMatMul")]


def test_tuning_reaches_every_bucket(tmp_path: Path) -> None:
    """The scales of more than one bucket move, and the checks of tuning hold."""
    net, data = growing(), samples(growing(), 16)
    artifact = made(net, tmp_path, data, effort="default")
    assert all(c["passed"] for c in artifact.measured["checks"])
    assert any("tuned: " in note for note in artifact.content["notes"])
    after = quantizer_scales(artifact)
    before = quantizer_scales(made(net, tmp_path, data))
    assert (before != after).sum() > 1


def quantizer_scales(artifact: Artifact) -> NDArray[np.float32]:
    """The table of the first quantizer."""
    node = next(n for n in artifact.model().graph if n.op_type == "QuantizeLinear")
    table = table_of_steps(node.inputs[1])
    assert table is not None
    return np.asarray(table.rows)


def _multiplier(model: ir.Model) -> ir.Value:
    return products(model)[1].inputs[MULTIPLIER].producer().inputs[0]


def _bias(model: ir.Model) -> ir.Value:
    return products(model)[1].inputs[BIAS].producer().inputs[0]


def _function(model: ir.Model) -> ir.Value:
    node = next(n for n in model.graph if n.op_type == "QLut")
    return node.inputs[1].producer().inputs[0]


@pytest.mark.parametrize(
    ("value_of", "rung"),
    [
        (_multiplier, "lower: constants"),
        (_bias, "lower: constants"),
        (_function, "lower: tables by time step"),
    ],
)
def test_one_wrong_number_of_one_bucket_fails(
    value_of: Callable[[ir.Model], ir.Value],
    rung: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The twin: of one bucket one multiplier, bias or entry of a table is moved by the least."""
    pipeline = sys.modules["qcompile.compile"]
    real = pipeline.lower

    def changed(*args: Any, **kwargs: Any) -> ir.Model:
        model = real(*args, **kwargs)
        value = value_of(model)
        array = value.const_value.numpy().copy()
        if array.dtype == np.float32:
            array[-2, 0] = np.nextafter(array[-2, 0], np.float32(np.inf))
        else:
            array[-2, 0] += 1
        value.const_value = ir.tensor(array, name=value.name)
        return model

    monkeypatch.setattr(pipeline, "lower", changed)
    with pytest.raises(VerificationError, match=rung):
        made(growing(), tmp_path)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"timestep_input": "time"}, 'timestep input "time": no input of the model: known: x, t'),
        ({"timestep_input": "x"}, 'timestep input "x" is FLOAT: the scales stand in a table'),
        ({"preset": "w8a8-dynamic"}, "w8a8-dynamic makes no static activations"),
        ({"preset": "w8a8", "target": "ort"}, "target ort takes scales that are constant"),
        ({"preset": "w8a8", "integer_only": True}, "--integer-only takes scales that are constant"),
        ({"activation_polish": "lognp"}, "activation polish lognp has one set of levels"),
        ({"timestep_buckets": 0}, "timestep buckets 0: at least 1 is needed"),
    ],
)
def test_refused(recipe: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        made(growing(), tmp_path, **recipe)


def denoiser_errors(session: Session) -> NDArray[np.float64]:
    """Squared difference from the float model's noise, the mean of ten time steps each [10]."""
    floats, found = open_session(denoiser.path()), []
    for feed in denoiser.data("test", denoiser.TEST_COUNT, seed=1):
        given = {name: feed[name] for name in ("x", "t")}
        y, wanted = session.run(["noise"], given)[0], floats.run(["noise"], given)[0]
        found.append(np.square(y.astype(np.float64) - wanted).mean())
    return np.array(found).reshape(10, -1).mean(1)


@pytest.mark.slow
def test_denoiser(tmp_path: Path) -> None:
    """QuEST's claim on the denoiser, w4a4: less error at every tenth of the time steps."""
    found = {}
    for name in (None, "t"):
        recipe = Recipe(
            preset="w4a4", effort="quick", timestep_input=name, num_calibration_samples=400
        )
        artifact = qcompile.compile(
            denoiser.path(),
            output=tmp_path / f"{name}.qc",
            recipe=recipe,
            calibration_data=denoiser.calibration(4),
        )
        found[name] = denoiser_errors(load(artifact.folder, trust_library=True))
    assert (found["t"] < found[None]).all()
    assert found["t"].mean() < 0.6 * found[None].mean()


def test_compare_runs_one_step_at_a_time(tmp_path: Path) -> None:
    """Data that mixes the steps is compared as well as data that does not."""
    net = growing()
    artifact, feeds = made(net, tmp_path, samples(net, 32)), samples(net, 4, seed=2)
    joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in ("x", "t")}
    mixed = {name: array.reshape(STEPS, 4, *array.shape[1:]) for name, array in joined.items()}
    mixed = {n: a.swapaxes(0, 1).reshape(joined[n].shape) for n, a in mixed.items()}
    found = [
        qcompile.compare(tmp_path / "m.onnx", artifact.folder, data).outputs[0].sqnr_db
        for data in (joined, mixed)
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-6)  # in another order of summation


@pytest.mark.slow
def test_tuning_few_numbers_of_the_denoiser(tmp_path: Path) -> None:
    """Scales and biases, less than a tenth of all numbers, take back half of the loss of w4a4."""
    data, found = denoiser.calibration(), {}
    for name, effort in ((None, "quick"), ("t", "default")):
        recipe = Recipe(
            preset="w4a4", effort=effort, timestep_input=name, num_calibration_samples=400
        )
        artifact = qcompile.compile(
            denoiser.path(), output=tmp_path / effort, recipe=recipe, calibration_data=data
        )
        found[name] = denoiser_errors(load(artifact.folder, trust_library=True)).mean()
    most = len(artifact.content["nodes"]) * 3 * 16  # scales of what products read and write
    for node in products(artifact.model()):
        most += 2 * int(node.attributes["N"].value)  # scales of rows, and biases
    assert most < 0.1 * 16_337
    assert found["t"] < 0.5 * found[None]
