# SPDX-License-Identifier: Apache-2.0
"""Samples are selected by density and diversity (EDA-DM): counts, order, groups, refusals."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import qcompile
from qcompile.calibration_selection import select_samples, shares, weights_of
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.errors import InputError
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.recipe import Recipe
from tests.pipeline.nets import Net, cnn, samples


def two_inputs() -> Net:
    """x and a time step t, an integer, that is added to it."""
    net = Net()
    t = net.node("Cast", [net.input("t", ["batch", 1], TensorProto.INT64)], "tf", to=1)
    x = net.node("Add", [net.input("x", ["batch", 8]), t], "sum")
    net.linear(net.linear(x, 8, 8, "middle"), 8, 4, "y")
    net.output("y", ["batch", 4])
    return net


def data_of(count: int, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    steps = np.arange(count, dtype=np.int64)[:, None] % 5
    x = rng.normal(size=(count, 8)).astype(np.float32)
    batch = Batch({"x": 0, "t": 0})
    return Data(list(batch.split({"x": x, "t": steps})), batch)


def test_the_weights_are_the_papers_for_every_item() -> None:
    """Against the formula, pair by pair."""
    x = np.random.default_rng(0).integers(-9, 9, (23, 4)).astype(np.float64)
    far = np.array([[((a - b) ** 2).mean() for b in x] for a in x])
    radius = np.median([far[i, j] for i in range(23) for j in range(i)])
    density = np.array([sum(far[i, j] <= radius for j in range(23) if j != i) for i in range(23)])
    unit = x / np.sqrt((x * x).sum(1, keepdims=True))
    diversity = np.array([sum(1 - unit[i] @ unit[j] for j in range(23)) for i in range(23)])
    wanted = sum((each - each.min()) / np.ptp(each) for each in (density, diversity))
    bound = 23 * 64 * 2.0**-53 / np.ptp(diversity)
    assert np.abs(weights_of(x) - wanted).max() <= bound
    broken = x.copy()
    broken[3] = -broken[3]
    assert np.abs(weights_of(broken) - wanted).max() > bound


def test_the_order_of_the_features_does_not_count() -> None:
    x = np.random.default_rng(1).integers(-9, 9, (40, 12))
    order = np.random.default_rng(2).permutation(12)
    wanted = weights_of(x)
    assert np.abs(weights_of(x[:, order]) - wanted).max() <= 40 * 64 * 2.0**-53


def test_the_weight_grows_with_the_density() -> None:
    """Features of one direction have no diversity; a step at the end that comes more often."""
    x = np.outer(np.arange(1, 10), [3.0, 4.0])
    found = [weights_of(np.concatenate([x, np.repeat(x[8:], n, 0)]))[8] for n in (0, 1, 3, 9)]
    assert found[0] == 0 and found == sorted(set(found))


@pytest.mark.parametrize("total", [1, 7, 30, 59, 60])
def test_shares_add_up_exactly_and_keep_to_the_sizes(total: int) -> None:
    rng = np.random.default_rng(total)
    for _ in range(20):
        sizes = rng.integers(1, 9, 20)
        sizes[0] += max(60 - int(sizes.sum()), 0)
        found = np.array(shares(rng.random(20) ** 3, [int(s) for s in sizes], total))
        assert found.sum() == total and (found >= 0).all() and (found <= sizes).all()


def test_equal_items_get_equal_shares() -> None:
    assert weights_of(np.ones((6, 3))).tolist() == [0.0] * 6
    assert shares(np.zeros(4), [5, 5, 5, 5], 8) == [2, 2, 2, 2]
    assert weights_of(np.ones((1, 3))).tolist() == [0.0]
    assert np.isfinite(weights_of(np.zeros((3, 3)))).all()


@pytest.mark.parametrize("groups", [None, "t"])
@pytest.mark.parametrize("wanted", [1, 10, 39])
def test_so_many_samples_in_their_order(groups: str | None, wanted: int, tmp_path: Path) -> None:
    model = normalise(load(two_inputs().save(tmp_path / "m.onnx")))
    data = data_of(40)
    recipe = Recipe(calibration_select=wanted, calibration_groups=groups)
    found = select_samples(model, data, recipe, Division())
    assert found.data is not None and found.data.num_samples == wanted
    rows = np.concatenate([feed["x"] for feed in data.feeds]).tolist()
    places = [rows.index(r) for r in np.concatenate([f["x"] for f in found.data.feeds]).tolist()]
    assert places == sorted(set(places))
    again = select_samples(model, data, recipe, Division())
    assert again.data is not None
    for one, other in zip(found.data.feeds, again.data.feeds, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
    assert found.note == (
        f"calibration: {wanted} of 40 samples, by density and diversity of middle"
        f"{', 5 values of t' if groups else ''}"
    )


def test_groups_share_out_by_their_weight(tmp_path: Path) -> None:
    """Steps 0 … 4 move the features: those in the middle have more neighbours."""
    model = normalise(load(two_inputs().save(tmp_path / "m.onnx")))
    recipe = Recipe(calibration_select=20, calibration_groups="t")
    found = select_samples(model, data_of(200), recipe, Division()).data
    assert found is not None
    steps = np.concatenate([feed["t"].ravel() for feed in found.feeds])
    assert np.bincount(steps, minlength=5).sum() == 20 and len(set(steps.tolist())) > 1


def test_fewer_samples_than_asked(tmp_path: Path) -> None:
    model = normalise(load(two_inputs().save(tmp_path / "m.onnx")))
    data = data_of(6)
    found = select_samples(model, data, Recipe(calibration_select=9), Division())
    assert found.data is data
    assert found.note == "calibration: all 6 samples are used, no more came"


def test_a_compilation_calibrates_with_them(tmp_path: Path) -> None:
    """The ranges are those of the selected samples alone."""
    path = cnn().save(tmp_path / "m.onnx")
    every = samples(cnn())
    recipe = Recipe(preset="w8a8", calibration_select=3)
    made = qcompile.compile(path, recipe=recipe, calibration_data=every, force=True)
    assert "calibration: 3 of" in " ".join(made.content["notes"])
    chosen = select_samples(
        normalise(load(path)),
        Data([every], Batch(dict.fromkeys(every, 0))),
        recipe,
        Division(),
    ).data
    assert chosen is not None and chosen.num_samples == 3
    (feed,) = chosen.feeds
    alone = qcompile.compile(
        path, output=tmp_path / "b.qc", recipe=Recipe(preset="w8a8"), calibration_data=feed
    )
    names = {f.name for f in made.folder.iterdir()} - {"manifest.json"}
    assert names and all(
        (made.folder / n).read_bytes() == (alone.folder / n).read_bytes() for n in names
    )


def test_refused(tmp_path: Path) -> None:
    path = cnn().save(tmp_path / "m.onnx")
    with pytest.raises(InputError) as caught:
        qcompile.compile(path, recipe=Recipe(calibration_select=3))
    assert str(caught.value) == (
        "3 calibration samples cannot be selected: give --calibration-data, of which they are taken"
    )
    with pytest.raises(InputError) as caught:
        recipe = Recipe(calibration_select=3, calibration_groups="xx")
        qcompile.compile(path, recipe=recipe, calibration_data=samples(cnn()))
    assert str(caught.value) == 'calibration groups: "xx" is no input: did you mean "x"?'
