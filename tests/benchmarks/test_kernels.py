# SPDX-License-Identifier: Apache-2.0
"""The table of benchmarks.kernels: what is built when, which peers count, the lines of models."""

import weakref
from pathlib import Path

import numpy as np
import pytest

from benchmarks.interleave import Candidate
from benchmarks.kernel_ort import ort_peers
from benchmarks.kernel_rows import ROWS, Row
from benchmarks.kernels import judge
from benchmarks.model_rows import MODEL_ROWS, ModelRow, Models, model_work
from benchmarks.work import DECODE_PRODUCTS, LIMIT, Kept, Peer, Run, Work, rotated


def work(name: str, against: str, peers: tuple[Peer, ...]) -> Work:
    def never() -> Candidate:
        raise AssertionError("built before its turn")

    return Work(name, 1.0, against, never, peers, never)


def test_shared_peers_are_built_once_and_go_after_their_last_line() -> None:
    built: list[str] = []

    class Copy:
        """A run that can be watched."""

        def __call__(self) -> None: ...

    def peer(name: str, *key: int) -> Peer:
        def build() -> list[Copy]:
            built.append(name)
            return [Copy()]

        return Peer(name, key, build)

    first = work("1", LIMIT, (peer("a", 1), peer("b", 1)))
    second = work("2", LIMIT, (peer("a", 1), peer("b", 2)))
    kept = Kept([first, second])
    assert built == []
    held = [weakref.ref(each.runs[0]) for each in kept.candidates(first)]
    kept.release(first.peers)
    assert [each() is None for each in held] == [False, True]
    again = [weakref.ref(each.runs[0]) for each in kept.candidates(second)]
    assert built == ["a", "b", "b"]
    assert again[0]() is held[0]()
    kept.release(second.peers)
    assert [each() for each in again] == [None, None]


def test_rows_of_one_shape_share_float32_and_wide_ones_do_not() -> None:
    floats = {row: next(iter(ort_peers(row, 1))).identity for row in ROWS}
    assert len(set(floats.values())) == len({row.shape for row in ROWS}) == 4
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_asymmetric_peers_are_not_those_of_symmetric_rows() -> None:
    rows = (Row("prefill", "int4", 4, 32, 2, 1.0, asymmetric=has) for has in (False, True))
    keys = [{p.identity for p in ort_peers(row, 1) if "bit" in p.name} for row in rows]
    assert keys[0].isdisjoint(keys[1])


def test_decode_reads_512_mb_before_a_copy_comes_again() -> None:
    def build(count: int) -> Run:
        return lambda: count

    counts = [run() for run in rotated(10 << 20, build, is_decode=True)]
    assert counts == [DECODE_PRODUCTS] * 7
    assert [run() for run in rotated(10 << 20, build, is_decode=False)] == [1]


def test_our_other_widths_are_a_goal_and_no_peer() -> None:
    times = {
        "ours": np.full(30, 2.0),
        "ours w8a8": np.full(30, 1.0),
        "ORT float32": np.full(30, 4.0),
        LIMIT: np.full(30, 1.0),
    }
    found = judge(work("model", "ours w8a8", ()), times)
    assert found["verdict"] == "missed"
    assert found["goal_ratio"]["median"] == 2.0
    assert (found["best_peer"], found["faster_than_best_peer"]) == ("ORT float32", "yes")


@pytest.mark.parametrize("row", MODEL_ROWS, ids=lambda row: row.name)
def test_a_model_runs_in_all_ways(row: ModelRow) -> None:
    models = Models(1, tiny=True)

    class Free:
        """In place of the probes, which need a compiler."""

        def products(self, count: float, bits: int) -> Candidate:
            return Candidate("products", [lambda: None], count)

    line = model_work(row, models, Free(), has_openvino=False)
    assert line.limit().scale > 1e4  # integer products
    for candidate in (line.ours(), *Kept([line]).candidates(line)):
        (outputs,) = candidate.runs[0]()
        assert outputs.shape[0] == 1 and np.ptp(outputs) > 0
    facts = line.facts()
    on_disk = models.artifact(row.model, row.preset).folder
    assert facts["artifact_bytes"] == sum(
        (Path(on_disk) / name).stat().st_size for name in ("model.onnx", "model.onnx.data")
    )
    if row.preset != "w7a8":  # its chunks of 32 columns: rows of a tiny model do not fill them
        assert facts.get("part_verdict", "reached") == "reached"
