# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs have a length that the model takes; where none does, the user is told."""

from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile import measure, trial
from qcompile.errors import InputError
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.recipe import Recipe
from qcompile.trial import has_free_length, length_that_runs
from tests.pipeline.nets import Net, mlp


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def framed(frame: int) -> Net:
    """A signal of whole frames."""
    net = Net()
    x = net.input("x", ["batch", "n"])
    frames = net.node("Reshape", [x, net.array("frames", np.array([0, -1, frame]))], "framed")
    net.linear(frames, frame, 16, "y")
    net.output("y", ["batch", "m", 16])
    return net


def padded() -> Net:
    """A reflection of 40 numbers, which a signal of 16 has not."""
    net = Net()
    x = net.input("x", ["batch", "n"])
    pads = net.array("pads", np.array([0, 40, 0, 40]))
    wide = net.node("Pad", [x, pads], "wide", mode="reflect")
    one = net.array("one", np.array([2]))
    column = net.node("Unsqueeze", [wide, one], "column")
    net.linear(column, 1, 16, "y")
    net.output("y", ["batch", "m", 16])
    return net


def found(path: Path) -> int:
    return length_that_runs(path, normalise(load(path)), Recipe())


@pytest.mark.parametrize(("net", "length"), [(framed(32), 64), (framed(256), 256), (padded(), 64)])
def test_the_first_length_that_runs(net: Net, length: int, tmp_path: Path) -> None:
    path = net.save(tmp_path / "m.onnx")
    assert found(path) == length
    assert qcompile.compile(path).content["coverage"] == 1


def test_most_models_take_the_first(tmp_path: Path) -> None:
    net = Net()
    net.linear(net.input("x", ["batch", "n", 64]), 64, 16, "y")
    net.output("y", ["batch", "n", 16])
    assert found(net.save(tmp_path / "m.onnx")) == 16


def test_no_length_is_free(tmp_path: Path) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    assert not has_free_length(normalise(load(path)))
    path = padded().save(tmp_path / "p.onnx")
    assert has_free_length(normalise(load(path)))


def test_where_the_process_would_end_the_user_is_asked_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_CHILD", "import os; os.kill(os.getpid(), 8)")
    path = padded().save(tmp_path / "m.onnx")
    with pytest.raises(InputError) as error:
        qcompile.compile(path)
    assert str(error.value) == (
        "ONNX Runtime ends with signal 8 on random inputs of 16, and runs on none of up to 16384: "
        "give --calibration-data"
    )


def test_a_trial_that_takes_too_long_counts_as_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_SECONDS", 0.01)
    assert found(padded().save(tmp_path / "m.onnx")) == 16


def test_what_onnx_runtime_does_not_load_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, status = [], trial._status
    monkeypatch.setattr(trial, "_status", lambda *given: tried.append(status(*given)) or tried[-1])
    model = normalise(load(padded().save(tmp_path / "m.onnx")))
    (tmp_path / "other.onnx").write_bytes(b"no model")
    assert length_that_runs(tmp_path / "other.onnx", model, Recipe()) == 16
    assert len(tried) == 1 and tried[0] > 0
    assert found(tmp_path / "m.onnx") == 64
    assert len(tried) == 3  # 16 that fails, 64


def test_windows_fit(tmp_path: Path) -> None:
    """A window of 40 that ONNX Runtime slides over a map of 16, giving a map of nothing."""
    net = Net()
    x = net.conv(net.input("x", ["batch", 3, "h", 4]), 8, 3, "c")
    pooled = net.node("MaxPool", [x], "p", kernel_shape=[40, 1])
    net.conv(pooled, 4, 8, "y")
    net.output("y", ["batch", 4, "m", 4])
    assert found(net.save(tmp_path / "m.onnx")) == 64


def test_a_state_has_the_batch_on_its_second_axis(tmp_path: Path) -> None:
    net = Net()
    x, state = net.input("x", ["batch", 64]), net.input("state", [2, "batch", 64])
    one = net.array("i", np.array(1))
    last = net.node("Gather", [state, one], "last", axis=0)
    net.linear(net.node("Add", [x, last], "sum"), 64, 16, "y")
    net.output("y", ["batch", 16])
    path = net.save(tmp_path / "m.onnx")
    assert found(path) == 16
    assert qcompile.compile(path).content["coverage"] == 1
