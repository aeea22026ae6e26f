# SPDX-License-Identifier: Apache-2.0
"""Buckets of time steps, and data in feeds of one step each."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from qcompile.data import Batch, Data
from qcompile.errors import InputError
from qcompile.timesteps import LARGEST_STEP, bucketed, buckets_of, by_timestep, check_timestep


def value(name: str, *dims: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype))


FREE = [value("x", "N", 3), value("t", "N", dtype=ir.DataType.INT64)]


def data(t: NDArray, inputs: list[ir.Value] = FREE) -> Data:
    """One feed of as many samples; x tells them apart."""
    x = np.arange(len(t) * 3, dtype=np.float32).reshape(-1, 3)
    return Data([{"x": x, "t": t}], Batch.of(inputs))


@pytest.mark.parametrize("most", [1, 2, 7, 16, 1000])
def test_buckets_are_neighbours_of_about_equal_counts(most: int) -> None:
    steps = np.random.default_rng(0).integers(0, 50, 2000)
    found = bucketed("t", steps.tolist(), most)
    assert found.count == min(most, 50)
    assert set(np.diff(found.of_step)) <= {0, 1} and found.of_step[0] == 0
    counts = np.bincount(found.of_step[steps], minlength=found.count)
    largest_step = np.bincount(steps).max()
    assert counts.max() <= 2000 / found.count + largest_step
    assert counts.min() >= 2000 / found.count - largest_step or most > 50


def test_every_step_of_the_data_alone_where_they_are_few() -> None:
    found = bucketed("t", [0, 10, 10, 500, 20], 16)
    assert [found.of(t) for t in (0, 10, 20, 500)] == [0, 1, 2, 3]
    assert [found.of(t) for t in (5, 6, 259, 260, 261, 999, -1)] == [0, 1, 2, 2, 3, 3, 0]


def test_samples_are_regrouped_by_step() -> None:
    t = np.random.default_rng(1).integers(0, 5, 60)
    before = data(t)
    after = by_timestep(before, FREE, "t")
    assert after.step == "t" and after.num_samples == 60
    for feed in after.feeds:
        assert len(set(feed["t"].tolist())) == 1 and len(feed["x"]) <= 16
        rows = (feed["x"][:, 0] / 3).astype(int)
        np.testing.assert_array_equal(t[rows], feed["t"])
    again = by_timestep(before, FREE, "t")
    for one, other in zip(after.feeds, again.feeds, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])
    assert [buckets_of(after, "t", most).count for most in (3, 5, 16)] == [3, 5, 5]


@pytest.mark.parametrize(("count", "buckets"), [(7, 1), (16, 2), (31, 3), (200, 10)])
def test_buckets_have_enough_samples(count: int, buckets: int) -> None:
    found = by_timestep(data(np.arange(count) % 10), FREE, "t")
    assert buckets_of(found, "t", 16).count == buckets


def test_first_samples_keep_the_step() -> None:
    assert by_timestep(data(np.arange(40) % 4), FREE, "t").first(3).step == "t"


def test_a_step_that_counts_no_samples() -> None:
    """A number beside a free batch: one feed, one step."""
    inputs = [value("x", "N", 3), value("t", dtype=ir.DataType.INT64)]
    x = np.zeros((4, 3), np.float32)
    feeds = [{"x": x, "t": np.array(step)} for step in (3, 1)]
    found = by_timestep(Data(feeds, Batch.of(inputs)), inputs, "t")
    assert sorted(int(feed["t"]) for feed in found.feeds) == [1, 3]
    assert buckets_of(found, "t", 16).of_step.tolist() == [0, 0, 0, 0]  # 8 samples


def test_steps_that_differ_in_a_run_are_refused() -> None:
    inputs = [value("x", 4, 3), value("t", 4, dtype=ir.DataType.INT64)]
    with pytest.raises(InputError) as error:
        by_timestep(data(np.array([1, 1, 2, 1]), inputs), inputs, "t")
    assert str(error.value) == (
        'timestep input "t": one run has the steps [1, 2]; all samples of a run share their '
        "scales: give samples of one step a run"
    )


@pytest.mark.parametrize("step", [-1, LARGEST_STEP + 1])
def test_steps_out_of_range_are_refused(step: int) -> None:
    with pytest.raises(InputError) as error:
        by_timestep(data(np.array([step])), FREE, "t")
    assert str(error.value) == (
        f'timestep input "t": a sample has the step {step}; 0 to 65535 are possible'
    )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            value("t", "N"),
            'timestep input "t" is FLOAT: the scales stand in a table, which an int64 or int32 '
            "step chooses from; export the model with whole time steps",
        ),
        (
            value("t", "N", 1, dtype=ir.DataType.INT64),
            'timestep input "t" has the shape [N,1]: one number, [1] or [batch], all of which are '
            "equal, are supported",
        ),
        (value("u", "N"), 'timestep input "t": no input of the model: known: u'),
    ],
)
def test_inputs_that_are_no_step(made: ir.Value, message: str) -> None:
    with pytest.raises(InputError) as error:
        check_timestep([made], "t")
    assert str(error.value) == message
