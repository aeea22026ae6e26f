# SPDX-License-Identifier: Apache-2.0
"""Samples to tune on: every eighth is held out, floats are mixed, integers and batches stay."""

import numpy as np

from qcompile.data import Batch, Data
from qcompile.tuning_samples import Samples


def samples_of(arrays: dict[str, np.ndarray], sizes: dict[str, int]) -> tuple[Samples, Samples]:
    batch = Batch(sizes)
    return Samples.of(Data(list(batch.split(arrays)), batch))


def test_every_eighth_sample_is_held_out_and_never_drawn() -> None:
    x = np.arange(40, dtype=np.float32).reshape(40, 1)
    kept, held = samples_of({"x": x}, {"x": 0})
    assert (kept.count, held.count) == (35, 5)
    assert [f["x"].ravel().tolist() for f in held.feeds(3)] == [[0, 8, 16], [24, 32]]
    left = {v for f in kept.feeds(64) for v in f["x"].ravel().tolist()}
    assert left == set(range(40)) - {0, 8, 16, 24, 32}


def test_floats_are_mixed_between_two_samples() -> None:
    x = np.array([[1.0, 10.0], [2.0, 20.0]] * 8, np.float32)
    kept, _ = samples_of({"x": x}, {"x": 0})
    drawn = kept.draw(200, np.random.default_rng(0))["x"]
    assert drawn.shape == (200, 2) and drawn.dtype == np.float32
    assert np.allclose(drawn[:, 1], 10 * drawn[:, 0])  # the same share of the whole sample
    is_whole = np.isin(drawn[:, 0], (1, 2))
    assert 0.5 < is_whole.mean() < 0.95
    assert drawn[:, 0].min() >= 1 and drawn[:, 0].max() <= 2


def test_integers_and_inputs_without_samples_are_as_they_were() -> None:
    ids = np.arange(48, dtype=np.int64).reshape(16, 3)
    mask = np.ones((3, 3), np.float32)
    kept, held = samples_of({"ids": ids, "mask": mask}, {"ids": 0})
    assert not kept.is_mixable and held.count == 2
    drawn = kept.draw(5, np.random.default_rng(0))
    assert all(row.tolist() in ids.tolist() for row in drawn["ids"])
    assert drawn["mask"] is mask


def test_samples_of_other_lengths_are_not_joined() -> None:
    batch = Batch({"ids": 0})
    feeds = [{"ids": np.full((8, n), n, np.int64)} for n in (3, 5)]
    kept, _ = Samples.of(Data(feeds, batch))
    assert sorted(f["ids"].shape for f in kept.feeds(16)) == [(7, 3), (7, 5)]
    shapes = {kept.draw(2, np.random.default_rng(i))["ids"].shape for i in range(9)}
    assert shapes == {(2, 3), (2, 5)}


def test_a_fixed_batch_is_one_sample() -> None:
    x = np.random.default_rng(0).random((64, 3)).astype(np.float32)
    kept, held = samples_of({"x": x}, {"x": 4})
    assert (kept.count, held.count) == (14, 2)
    assert kept.draw(1, np.random.default_rng(0))["x"].shape == (4, 3)


def test_runs_have_one_time_step_and_draws_mix_them() -> None:
    """ONNX Runtime gets feeds of one step; a step of tuning takes samples of any."""
    x, t = np.arange(96, dtype=np.float32).reshape(48, 2), np.arange(48) % 3
    batch = Batch({"x": 0, "t": 0})
    kept, held = Samples.of(Data(list(batch.split({"x": x, "t": t})), batch, step="t"))
    for part in (kept, held):
        feeds = part.feeds(8)
        assert all(len(set(feed["t"].tolist())) == 1 and len(feed["x"]) <= 8 for feed in feeds)
        rows = np.concatenate([feed["x"][:, 0] for feed in feeds]).astype(int) // 2
        steps = np.concatenate([feed["t"] for feed in feeds])
        np.testing.assert_array_equal(steps, rows % 3)
    assert (kept.count, held.count) == (42, 6)
    drawn = kept.draw(30, np.random.default_rng(0))
    assert len(set(drawn["t"].tolist())) == 3
    np.testing.assert_array_equal(drawn["t"], drawn["x"][:, 0].astype(int) // 2 % 3)


def test_a_step_that_counts_no_samples_is_that_of_the_whole_draw() -> None:
    batch = Batch({"x": 0})
    feeds = [{"x": np.full((8, 2), step, np.float32), "t": np.array(step)} for step in (5, 6, 7)]
    kept, _ = Samples.of(Data(feeds, batch, step="t"))
    for seed in range(8):
        drawn = kept.draw(6, np.random.default_rng(seed))
        assert (drawn["x"] == drawn["t"]).all()  # mixtures of two samples of one step
    assert all((feed["x"] == feed["t"]).all() for feed in kept.feeds(3))
