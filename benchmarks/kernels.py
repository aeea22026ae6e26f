# SPDX-License-Identifier: Apache-2.0
"""The packed products against their peers and the limits of the machine, in one loop.

    python -m benchmarks.kernels [--threads N] [--only TEXT …] [--rounds N] [--json FILE]

A row times ours, every peer and the probe of its limit in turn. A goal is a ratio; "too noisy"
stands where the 95 % interval of the measured ratio holds the goal. Decode rotates its weights
through 512 MB at least, so that they come from memory.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleave import Candidate, Ratio, measure
from benchmarks.kernel_candidates import ort_peers, ours, versions
from benchmarks.kernel_openvino import openvino_peers
from benchmarks.kernel_rows import LIMIT, PEERS, ROWS, K, N, Row
from benchmarks.limits import Limits
from qcompile import runtime_ops


def candidates(row: Row, threads: int, limits: Limits, *, has_openvino: bool) -> list[Candidate]:
    """Ours, the peers, and last the limit."""
    found = [ours(row, threads), *ort_peers(row, threads)]
    if has_openvino:
        found += openvino_peers(row, threads)
    if row.m == 1:
        limit = limits.memory(row.weight_bytes)
    else:
        limit = limits.products(row.m * K * N, row.bits)
    return [*found, Candidate(LIMIT, limit.runs, limit.scale)]


def judge(row: Row, times: dict[str, np.ndarray]) -> dict[str, Any]:
    """Medians, the goal's ratio with its interval, and two verdicts."""
    medians = {name: float(np.median(row_times)) for name, row_times in times.items()}
    peers = {name: t for name, t in medians.items() if name not in ("ours", LIMIT)}
    best = min(peers, key=lambda name: peers[name])
    reference: str | None = {LIMIT: LIMIT, PEERS: best}.get(row.against)
    if reference is None:
        reference = next((name for name in peers if name.startswith(row.against)), None)
    ratio = None if reference is None else Ratio.of(times["ours"] / times[reference])
    faster = Ratio.of(times["ours"] / times[best])
    return {
        "row": row.name,
        "microseconds": {name: t * 1e6 for name, t in medians.items()},
        "spread": {name: vars(Ratio.of(t * 1e6)) for name, t in times.items()},
        "limit_fraction": vars(Ratio.of(times[LIMIT] / times["ours"])),
        "goal": f"<= {row.factor:.2f} x {reference or row.against}",
        "goal_ratio": None if ratio is None else vars(ratio),
        "verdict": "no such peer" if ratio is None else ratio.verdict(row.factor),
        "best_peer": best,
        "ratio_to_best_peer": vars(faster),
        "faster_than_best_peer": {"reached": "yes", "missed": "no"}.get(
            faster.verdict(1.0), "too noisy"
        ),
    }


def line(found: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    times = found["microseconds"]
    peers = ", ".join(f"{n} {t:.0f}" for n, t in times.items() if n not in ("ours", LIMIT))
    part, ratio = found["limit_fraction"], found["goal_ratio"]
    reached = f"{part['median']:.0%} ({part['low']:.0%}–{part['high']:.0%})"
    at = "" if ratio is None else f", is {ratio['median']:.2f}"
    return (
        f"| {found['row']} | {times['ours']:.0f} | {peers} | {times[LIMIT]:.0f} | {reached} "
        f"| {found['goal']}{at} | {found['verdict']} | {found['faster_than_best_peer']} |"
    )


def heading(isa: str, threads: int, *, has_openvino: bool) -> str:
    """What ran, what was left out and why."""
    words = [f"{isa}, {threads} threads, {versions()}, K = N = {K}; times in µs"]
    if "vnni" not in isa:
        words.append(f"goals were stated for AVX512-VNNI; here they are held against {isa}'s peak")
    if not has_openvino:
        words.append("OpenVINO is left out: not installed (pip install .[bench])")
    words.append("llama.cpp is left out: there is no caller of its mul_mat yet")
    return "\n".join(words)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=[], help="rows with one of these in the name")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    isa = runtime_ops.supported_isas()[-1]
    has_openvino = importlib.util.find_spec("openvino") is not None
    print(heading(isa, chosen.threads, has_openvino=has_openvino))
    print("\n| work | ours | peers | limit | of the limit | goal | verdict | faster than peers |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    limits, found = Limits(isa, chosen.threads), []
    for row in ROWS:
        if chosen.only and not any(text in row.name for text in chosen.only):
            continue
        runs = candidates(row, chosen.threads, limits, has_openvino=has_openvino)
        found.append(judge(row, measure(runs, chosen.rounds)))
        print(line(found[-1]), flush=True)
    if chosen.json is not None:
        result = {"isa": isa, "threads": chosen.threads, "rounds": chosen.rounds, "rows": found}
        chosen.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
