# SPDX-License-Identifier: Apache-2.0
"""The packed products against their peers and the limits of the machine, in one loop.

    python -m benchmarks.kernels [--threads N] [--only TEXT …] [--rounds N] [--seconds S]
                                 [--json FILE]

A row times ours, every peer and the probe of its limit in turn, in N rounds, or for S seconds where
16 rounds are done by then. A goal is a ratio; "too noisy" stands where the 95 % interval of the
measured ratio holds the goal. Decode rotates its weights through 512 MB at least, so that they come
from memory; a run of it is a model of eight products, and its time that of one.
"""

import argparse
import functools
import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ggml, kernel_llama, kernel_openvino, kernel_ort, saturation
from benchmarks.interleave import Candidate, Ratio, measure
from benchmarks.kernel_ours import ours
from benchmarks.kernel_rows import ROWS, Row
from benchmarks.limits import Limits
from benchmarks.model_rows import MODEL_ROWS, Models, model_work
from benchmarks.work import DECODE_PRODUCTS, LIMIT, OURS, PEERS, Kept, Peer, Work
from qcompile import runtime_ops

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
HAS_LLAMA = ggml.library_folder() is not None


def product_work(row: Row, threads: int, limits: Limits) -> Work:
    """The line of a product."""

    def limit() -> Candidate:
        if row.m == 1:
            found = limits.memory(row.weight_bytes)
        else:
            found = limits.products(row.m * row.k * row.n, row.bits)
        return Candidate(LIMIT, found.runs, found.scale)

    run = functools.partial(ours, row, threads)
    peers = tuple(product_peers(row, threads))
    products = DECODE_PRODUCTS if row.m == 1 else 1
    return Work(row.name, row.factor, row.against, run, peers, limit, products=products)


def product_peers(row: Row, threads: int) -> Iterator[Peer]:
    """Those that are installed."""
    yield from kernel_ort.ort_peers(row, threads)
    if HAS_OPENVINO:
        yield from kernel_openvino.openvino_peers(row, threads)
    if HAS_LLAMA:
        yield from kernel_llama.llama_peers(row, threads)


def works(threads: int, only: list[str], limits: Limits) -> list[Work]:
    """The lines whose names hold one of the texts; all without texts."""

    def is_chosen(name: str) -> bool:
        return not only or any(text in name for text in only)

    models = Models(threads)
    return [
        *(product_work(row, threads, limits) for row in ROWS if is_chosen(row.name)),
        *(
            model_work(row, models, limits, has_openvino=HAS_OPENVINO)
            for row in MODEL_ROWS
            if is_chosen(row.name)
        ),
    ]


def judge(work: Work, times: dict[str, np.ndarray]) -> dict[str, Any]:
    """Medians, the goal's ratio with its interval, and two verdicts."""
    medians = {name: float(np.median(row_times)) for name, row_times in times.items()}
    others = {name: t for name, t in medians.items() if name not in (OURS, LIMIT)}
    peers = {name: t for name, t in others.items() if not name.startswith(OURS)}
    best = min(peers, key=lambda name: peers[name])
    reference: str | None = {LIMIT: LIMIT, PEERS: best}.get(work.against)
    if reference is None:
        reference = next((name for name in others if name.startswith(work.against)), None)
    ratio = None if reference is None else Ratio.of(times[OURS] / times[reference])
    faster = Ratio.of(times[OURS] / times[best])
    return {
        "row": work.name,
        "rounds": len(times[OURS]),
        "microseconds": {name: t * 1e6 for name, t in medians.items()},
        "spread": {name: vars(Ratio.of(t * 1e6)) for name, t in times.items()},
        "limit_fraction": vars(Ratio.of(times[LIMIT] / times[OURS])),
        "goal": f"<= {work.factor:.2f} x {reference or work.against}",
        "goal_ratio": None if ratio is None else vars(ratio),
        "verdict": "no such peer" if ratio is None else ratio.verdict(work.factor),
        "best_peer": best,
        "ratio_to_best_peer": vars(faster),
        "faster_than_best_peer": {"reached": "yes", "missed": "no"}.get(
            faster.verdict(1.0), "too noisy"
        ),
    }


def line(found: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    times = found["microseconds"]
    peers = ", ".join(f"{n} {t:.0f}" for n, t in times.items() if n not in (OURS, LIMIT))
    part, ratio = found["limit_fraction"], found["goal_ratio"]
    reached = f"{part['median']:.0%} ({part['low']:.0%}–{part['high']:.0%})"
    at = "" if ratio is None else f", is {ratio['median']:.2f}"
    return (
        f"| {found['row']}{sizes(found)} | {times[OURS]:.0f} | {peers} | {times[LIMIT]:.0f} "
        f"| {reached} | {found['goal']}{at} | {found['verdict']} "
        f"| {found['faster_than_best_peer']} |"
    )


def sizes(found: dict[str, Any]) -> str:
    """Of a model, in the first column."""
    if "artifact_bytes" not in found:
        return ""
    text = f", {found['artifact_bytes'] / 1e6:.1f} MB"
    if "part_of_w8a8_bytes" in found:
        part, goal, verdict = (found[f"part_{n}"] for n in ("of_w8a8_bytes", "goal", "verdict"))
        text += f", its narrow weights {part:.3f} of w8a8 (goal {goal}: {verdict})"
    return text


def heading(isa: str, threads: int) -> str:
    """What ran, what was left out and why."""
    found = [isa, f"{threads} threads", kernel_ort.versions()]
    found += [kernel_openvino.version()] if HAS_OPENVINO else []
    found += [kernel_llama.version()] if HAS_LLAMA else []
    words = [f"{', '.join(found)}; K x N = 4096x4096 where none is named; times in µs"]
    if "vnni" not in isa:
        words.append(f"goals were stated for AVX512-VNNI; here they are held against {isa}'s peak")
    share = saturation.openvino_share() if HAS_OPENVINO else 1.0
    if share < 0.99:
        words.append(
            f"OpenVINO's int8 models saturate here: of the largest sum they give {share:.0%}; ours "
            "and ONNX Runtime's (session.x64quantprecision) are exact"
        )
    if not HAS_OPENVINO:
        words.append("OpenVINO is left out: not installed (pip install .[bench])")
    if not HAS_LLAMA:
        words.append("llama.cpp is left out: not installed (pip install .[llama])")
    return "\n".join(words)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring a row")
    parser.add_argument("--only", nargs="*", default=[], help="rows with one of these in the name")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)  # ONNX Runtime's quantizer has many for DeiT
    isa = runtime_ops.supported_isas()[-1]
    print(heading(isa, chosen.threads))
    print("\n| work | ours | peers | limit | of the limit | goal | verdict | faster than peers |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    todo = works(chosen.threads, chosen.only, Limits(isa, chosen.threads))
    kept, found = Kept(todo), []
    for work in todo:
        found.append(timed(work, kept, chosen.rounds, chosen.seconds))
        print(line(found[-1]), flush=True)
    if chosen.json is not None:
        result = {"isa": isa, "threads": chosen.threads, "rows": found}
        chosen.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


def timed(work: Work, kept: Kept, rounds: int, seconds: float) -> dict[str, Any]:
    """A line: ours, the peers, and last the limit."""
    runs = [work.ours(), *kept.candidates(work), work.limit()]
    found = judge(work, measure(runs, rounds, seconds)) | work.facts()
    kept.release(work.peers)
    return found


if __name__ == "__main__":
    main()
