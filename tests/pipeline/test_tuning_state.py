# SPDX-License-Identifier: Apache-2.0
"""An interrupted tuning goes on and ends with the same numbers; a damaged file is left aside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qcompile.layer_cache import LayerCache
from qcompile.tune import tune
from qcompile.tuned import Tuned
from tests.pipeline.test_tune import Net, arrays


class Stopped(Exception):
    """What Ctrl-C is elsewhere."""


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("w3a8")


def tuned(net: Net, cache: LayerCache | None, stop: int = 10**9) -> tuple[Tuned, list[int]]:
    """The tuned net and the steps that were taken; Stopped after so many."""
    seen: list[int] = []

    def watch(_: str, done: int, __: int) -> None:
        seen.append(done)
        if done == stop:
            raise Stopped

    data = replace(net.data, watch=watch)
    made = tune(net.quantized, net.model, net.plan, net.recipe, data, net.division, cache)
    return made, seen


def same(first: Tuned, second: Tuned) -> bool:
    before = arrays(first.model)
    return all(np.array_equal(a, before[n]) for n, a in arrays(second.model).items())


def test_an_interrupted_tuning_goes_on(net: Net, tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "layers", {"model": "m"})
    with pytest.raises(Stopped):
        tuned(net, cache, stop=34)
    found, steps = tuned(net, cache)
    whole, every = tuned(net, None)
    assert steps == list(range(31, 61))  # kept every tenth
    assert every == list(range(1, 61))
    assert found.note == whole.note
    assert same(found, whole)
    again, none = tuned(net, cache)
    assert none == []
    assert same(again, whole)


def test_a_damaged_or_foreign_file_is_left_aside(net: Net, tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "layers", {"model": "m"})
    with pytest.raises(Stopped):
        tuned(net, cache, stop=20)
    (path,) = cache.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    found, steps = tuned(net, cache)
    assert steps == list(range(1, 61))
    other = Net("w2a8")
    _, steps = tuned(other, cache)
    assert steps[0] == 1
    assert same(found, tuned(net, None)[0])
