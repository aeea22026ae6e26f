# SPDX-License-Identifier: Apache-2.0
"""Second moments of layer inputs, against loops over patches; sampling; held-out samples."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile import moments
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.moments import HELD_OUT, Moments, Source, collect
from qcompile.numerics.conv import Window
from tests.passes.stages import with_weights

WINDOWS = {
    "1x1": Window((1, 1)),
    "strided": Window((3, 2), (2, 1), (1, 0, 2, 1)),
    "dilated": Window((3, 3), (1, 2), (2, 2, 2, 2), (2, 1)),
}


def loop_rows(x: NDArray, window: Window, group: int) -> NDArray:
    """Every patch [places, groups, K] of x [B, C, H, W], in the order of [B, OH, OW]."""
    kh, kw = window.kernel
    oh, ow = window.output_size(*x.shape[2:])
    rows = []
    for b, i, j in itertools.product(range(len(x)), range(oh), range(ow)):
        patch = np.zeros((x.shape[1], kh, kw), np.float32)
        for c, u, v in itertools.product(range(x.shape[1]), range(kh), range(kw)):
            row = i * window.strides[0] + u * window.dilations[0] - window.pads[0]
            column = j * window.strides[1] + v * window.dilations[1] - window.pads[1]
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                patch[c, u, v] = x[b, c, row, column]
        rows.append(patch.reshape(group, -1))
    return np.stack(rows)


def expected(rows: NDArray) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.einsum("rgi,rgj->gij", wide, wide) / len(rows)


def close(found: NDArray, wanted: NDArray, rows: NDArray) -> bool:
    """float32 sums of len(rows) products: 2^-24 of the largest sum of magnitudes each."""
    limit = (len(rows) + 2) * 2.0**-24 * np.square(rows.astype(np.float64)).sum(0).max() / len(rows)
    return bool((np.abs(found - wanted) <= limit).all())


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_moments_of_patches(window: Window, group: int) -> None:
    x = np.random.default_rng(0).standard_normal((HELD_OUT, 4, 7, 6)).astype(np.float32)
    source = Source("x", 4 // group * window.kernel[0] * window.kernel[1], group, window)
    found = Moments((source,), 0)
    found.update({"x": x}, HELD_OUT, 1, 1)
    second, held = found.result(is_centred=False)
    rows = loop_rows(x[:-1], window, group)
    assert close(second, expected(rows), rows)
    assert not close(second, expected(loop_rows(x[1:], window, group)), rows)
    assert np.array_equal(held, loop_rows(x[-1:], window, group))


def test_centred_moments_are_the_covariance() -> None:
    x = (np.random.default_rng(1).standard_normal((800, 5)) + 3).astype(np.float32)
    found = Moments((Source("x", 5),), 0)
    found.update({"x": x}, HELD_OUT, 1, 1)
    second, held = found.result(is_centred=True)
    is_held = np.arange(800) % HELD_OUT == HELD_OUT - 1
    covariance = np.cov(x[~is_held].T, bias=True)[None]
    assert close(second, covariance, x[:, None])
    assert not close(found.result(is_centred=False)[0], covariance, x[:, None])
    gap = held[:, 0] - (x[is_held] - x[~is_held].mean(0, dtype=np.float64))
    assert np.abs(gap).max() <= 2.0**-22 * np.abs(x).max()


def test_samples_are_held_out_over_runs_and_one_sample_serves_both() -> None:
    x = np.arange(24, dtype=np.float32).reshape(24, 1)
    found = Moments((Source("x", 1),), 0)
    for start in range(0, 24, 3):
        found.update({"x": x[start : start + 3]}, HELD_OUT, 8, 3)
    assert found.result(is_centred=False)[1].ravel().tolist() == [7, 15, 23]
    alone = Moments((Source("x", 1),), 0)
    alone.update({"x": x[5:6]}, 1, 1, 1)
    second, held = alone.result(is_centred=False)
    assert second.ravel().tolist() == [25]
    assert held.ravel().tolist() == [5]


def test_rows_are_sampled(monkeypatch) -> None:
    monkeypatch.setattr(moments, "_LEAST_ROWS", 100)
    monkeypatch.setattr(moments, "_ROWS_PER_COLUMN", 1)
    monkeypatch.setattr(moments, "_HELD_ROWS", 20)
    x = np.random.default_rng(2).standard_normal((16, 500, 3)).astype(np.float32)
    found = Moments((Source("x", 3),), 0)
    for feed in np.split(x, 4):
        found.update({"x": feed}, HELD_OUT, 4, 2)
    assert 100 <= found.count <= 104  # a row more in each of four runs at most
    assert 20 <= len(found.result(is_centred=False)[1]) <= 22


def test_collect_reads_inputs_and_inner_values() -> None:
    text = "f (float[b,4] x, float w) => (float[b,6] y) { h = Relu (x)   y = MatMul (h, w) }"
    model = with_weights(text, w=(4, 6))
    x = np.random.default_rng(3).standard_normal((40, 4)).astype(np.float32)
    batch = Batch.of(list(model.graph.inputs))
    wanted = [Moments((Source("x", 4),), 0), Moments((Source("h", 4), Source("x", 4)), 0)]
    collect(model, wanted, Data(list(batch.split({"x": x})), batch), Division())
    seen = x[np.arange(40) % HELD_OUT != HELD_OUT - 1][:, None]
    both = np.concatenate([np.maximum(seen, 0), seen])
    assert close(wanted[0].result(is_centred=False)[0], expected(seen), seen)
    assert close(wanted[1].result(is_centred=False)[0], expected(both), both)
    assert not close(wanted[1].result(is_centred=False)[0], expected(seen), both)
