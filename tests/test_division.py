# SPDX-License-Identifier: Apache-2.0
"""Runs are divided by what the values take, and what is found does not depend on it."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile import targets
from qcompile.annotate import annotate
from qcompile.calibrate import calibrate
from qcompile.data import Batch, Data
from qcompile.division import Division, Footprint
from qcompile.errors import InputError
from qcompile.memory import BASE_BYTES, Budget
from qcompile.normalise import normalise
from qcompile.recipe import Recipe
from tests.passes.stages import with_weights

CHAIN = """f (float[b,64] x, float w, float v) => (float[b,16] y)
{ h = MatMul (x, w)   r = Relu (h)   y = MatMul (r, v) }"""


def parts(samples: int = 40):
    """The model, the data, and its footprint."""
    model = normalise(with_weights(CHAIN, w=(64, 256), v=(256, 16)))
    batch = Batch.of(list(model.graph.inputs))
    x = np.random.default_rng(0).standard_normal((samples, 64)).astype(np.float32)
    data = Data(list(batch.split({"x": x})), batch)
    return model, data, Footprint.of(model, data)


def test_a_footprint_is_that_of_one_sample() -> None:
    _, _, found = parts()
    assert {n: found.sizes[n] for n in ("x", "h", "r", "y")} == {
        **{"x": 4 * 64, "h": 4 * 256},
        **{"r": 4 * 256, "y": 4 * 16},
    }
    assert found.live_bytes >= 4 * (256 + 256)  # h while r is made


class Small(Budget):
    """A budget of exactly these bytes for work."""

    @property
    def working_bytes(self) -> int:
        return self.limit_bytes


def test_a_turned_weight_is_no_value_of_a_run() -> None:
    text = """f (float[b,8] x, float w) => (float[b,512] y)
    { t = Transpose <perm = [1, 0]> (w)   y = MatMul (x, t) }"""
    model = normalise(with_weights(text, w=(512, 8)))
    batch = Batch.of(list(model.graph.inputs))
    found = Footprint.of(model, Data([{"x": np.zeros((2, 8), np.float32)}], batch))
    assert found.sizes == {"x": 4 * 8, "y": 4 * 512}
    assert found.live_bytes == 4 * (8 + 512)


FITS = {
    "MaxPool <kernel_shape = [5,1]> (x)": [None, None, None, "5 of 4", "5 of 2"],
    "MaxPool <kernel_shape = [2,1], dilations = [3,1]> (x)": [None, None, None, None, "4 of 2"],
    "AveragePool <kernel_shape = [6,1], pads = [1,0,0,0]> (x)": [None, None, None, "6 of 4", "6"],
    "MaxPool <kernel_shape = [6,1], strides = [3,1], ceil_mode = 1> (x)": [*[None] * 4, "6 of 2"],
    'MaxPool <kernel_shape = [5,1], auto_pad = "SAME_UPPER"> (x)': [None] * 5,
    "Conv (x, w)": [None, None, None, "5 of 4", "5 of 2"],
}


@pytest.mark.parametrize("op", FITS)
def test_windows_that_do_not_fit_the_samples(op: str) -> None:
    """ONNX Runtime would divide by 0 in some of them, and end the process."""
    text = f"f (float[b,8,h,4] x, float w) => (float[b,8,i,v] y) {{ y = {op} }}"
    model = normalise(with_weights(text, w=(8, 8, 5, 1)))
    batch = Batch.of(list(model.graph.inputs))
    for height, wanted in zip((8, 6, 5, 4, 2), FITS[op], strict=True):
        data = Data([{"x": np.zeros((2, 8, height, 4), np.float32)}], batch)
        division = Division(Budget(), Footprint.of(model, data))
        if wanted is None:
            division.check()
            continue
        with pytest.raises(InputError, match=f"larger samples.*\n.* looks at {wanted}"):
            division.check()


def test_fewer_samples_first_then_groups() -> None:
    _, data, footprint = parts()
    footprint = replace(footprint, held_bytes=0)
    sizes = {n: footprint.sizes[n] for n in ("h", "r", "y")}
    whole = footprint.live_bytes + 2 * sum(sizes.values())  # two copies of what is recorded
    for most, longest, groups in (
        (16 * whole, 16, [["h", "r", "y"]]),
        (5 * whole - 1, 4, [["h", "r", "y"]]),
        (whole, 1, [["h", "r", "y"]]),
        (whole - 1, 1, [["h", "r"], ["y"]]),
        (footprint.live_bytes, 1, [["h"], ["r"], ["y"]]),
    ):
        runs, found = Division(Small(most), footprint).split(sizes, data)
        assert [max(len(f["x"]) for f in runs.feeds), found] == [longest, groups]
        assert np.array_equal(
            np.concatenate([f["x"] for f in runs.feeds]),
            np.concatenate([f["x"] for f in data.feeds]),
        )


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_ranges_do_not_depend_on_the_division(method: str) -> None:
    model, data, footprint = parts()
    recipe = Recipe(preset="w8a8", calibration_method=method)
    plan = annotate(model, recipe, targets.get("cpu"), has_data=True)
    whole = calibrate(model, plan, recipe, data)
    split = calibrate(model, plan, recipe, data, Division(Small(footprint.live_bytes), footprint))
    assert whole.ranges and split.ranges.keys() == whole.ranges.keys()
    for name, params in whole.ranges.items():  # ORT sums one row in another order than sixteen
        assert split.ranges[name].scale == pytest.approx(params.scale, rel=64 * 2.0**-23)
        assert abs(split.ranges[name].zero_point - params.zero_point) <= 1
    for name, mean in whole.means.items():
        assert np.allclose(split.means[name], mean, rtol=0, atol=256 * 2.0**-23 * 8)


def test_a_run_that_does_not_fit_is_refused_with_the_number() -> None:
    sizes = {"x": 100 << 20}
    division = Division(Budget(BASE_BYTES + (200 << 20)), Footprint(sizes, 150 << 20))
    with pytest.raises(
        InputError, match=r"holds 367 MB of values.*give --max-memory 1070MB or more"
    ):
        division.check()
    Division(Budget(1070 * 10**6), Footprint(sizes, 150 << 20)).check()
    samples = Footprint(sizes, 150 << 20, 30 * 10**6)
    with pytest.raises(
        InputError, match=r"samples and weights 30 MB.*1100 MB: give --max-memory 1100MB"
    ):
        Division(Budget(1070 * 10**6), samples).check()
    Division(Budget(1100 * 10**6), samples).check()
