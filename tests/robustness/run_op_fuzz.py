# SPDX-License-Identifier: Apache-2.0
"""Run COUNT random nodes from number SEED; FOLDER gets the model of each that goes wrong.

    python -m tests.robustness.run_op_fuzz SEED COUNT FOLDER

A right node gives what numerics says; a damaged one gets a clear error, or runs. QC_LIBRARY names
another op library, as in tests/runtime_ops/other_library.py. Nodes run in a child process, which
says "N start" before each, so that a crash or a hang has a name, and is started again behind it.
"""

import faulthandler
import os
import re
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile import runtime_ops
from qcompile.attention import ATTENTIONS
from qcompile.reference import REFERENCES, activation_inputs, run_node
from tests.packaging.source_tree import ROOT
from tests.robustness.op_case import Case
from tests.robustness.op_fuzz import make

SECONDS = int(os.environ.get("QC_FUZZ_SECONDS", "20"))  # for one node
GROWTH_BYTES = 2 << 30  # of the memory of the process, by all nodes of a child together
BATCH = 1000
# What escapes from C++ without an op, numbers and a rule.
UNCLEAR = re.compile(r"std::|vector::|basic_string|unknown exception|bad_function", re.IGNORECASE)


def outputs_of(case: Case) -> list[NDArray]:
    """What the library says."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    runtime_ops.register(options)
    session = ort.InferenceSession(
        case.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[NDArray] = session.run(None, case.feed())
    return found


def disagreement(case: Case, got: NDArray) -> str:
    """How the output differs from numerics; "" where it does not, or numerics has no such op."""
    if case.op not in REFERENCES:
        return ""
    count = {"QAdd": 2, "QMul": 2, **dict.fromkeys(ATTENTIONS, len(case.inputs))}.get(case.op, 1)
    # What the operator does not read, and lists that say as much as an absent one.
    unread = case.op == "QMatMul" and case.attributes["activation"] != "static"
    given = {name: v for name, v in case.attributes.items() if v != []}
    inputs = case.inputs[:3] if unread else case.inputs
    plain = Case(case.op, inputs, given, tuple(range(count)))
    node = ir.from_proto(plain.model()).graph[0]
    assert len(activation_inputs(node)) == count
    with np.errstate(all="ignore"):
        expected, bound = run_node(node, [x for x in case.inputs[:count] if x is not None])
        if got.shape != expected.shape:
            return f"shape {got.shape} instead of {expected.shape}"
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        if bound is not None:
            # Beyond float32 an infinity, and where infinities meet, either's NaN.
            same |= np.abs(got - expected) <= bound
            same |= ~np.isfinite(bound) | (np.abs(expected) + bound >= np.finfo(np.float32).max)
    if same.all():
        return ""
    at = np.unravel_index(int(np.argmin(same)), same.shape)
    return f"{got[at]} instead of {expected[at]} at {at}"


def outcome(case: Case, num_changes: int) -> str:
    """fine, refused, WRONG and what happened; or DIFFERS: a damaged node that was taken.

    Numerics may read a damaged node in another way than the library (a default, an input that the
    operator ignores), so that DIFFERS needs a person to judge.
    """
    try:
        got = outputs_of(case)
    except Exception as error:  # ORT's own kinds are not built into Python
        text = str(error).replace("\n", " ")
        if num_changes and text.strip() and not UNCLEAR.search(text):
            return "refused"
        return f"WRONG {case.op} {type(error).__name__}: {text}"
    try:
        said = disagreement(case, got[0])
    except Exception as error:  # numerics cannot read what the library took
        said = f"no reference: {type(error).__name__}: {error}".replace("\n", " ")
    return f"{'DIFFERS' if num_changes else 'WRONG'} {case.op} {said}" if said else "fine"


def say(line: str) -> None:
    """A line for the parent, at once: the next node may end the process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_children(first: int, last: int, folder: Path) -> None:
    """The child's side."""
    if "QC_LIBRARY" in os.environ:
        runtime_ops.library_path = lambda: Path(os.environ["QC_LIBRARY"])  # type: ignore[assignment]
    else:  # a sanitizer reserves terabytes, and has a limit of its own
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + GROWTH_BYTES, size + GROWTH_BYTES))
    ort.set_default_logger_severity(4)
    for number in range(first, last):
        say(f"{number} start")
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        case, num_changes = make(number)
        what = outcome(case, num_changes)
        faulthandler.cancel_dump_traceback_later()
        say(f"{number} {what[:600]}")
        if what.startswith(("WRONG", "DIFFERS")):
            keep(case, folder / f"op{number}")


def keep(case: Case, folder: Path) -> None:
    """model.onnx and inputs.npz, to run it again."""
    folder.mkdir(exist_ok=True)
    onnx.save(case.model(), folder / "model.onnx")
    np.savez(folder / "inputs.npz", **case.feed())  # type: ignore[arg-type]


def fates(first: int, last: int, folder: Path) -> Iterator[tuple[int, str]]:
    """(number, fine, refused or WRONG …) of every node; crashes and hangs are WRONG."""
    while first < last:
        stop = min(first + BATCH, last)
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, *map(str, (first, stop, folder)), "child"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        lines = [line.split(" ", 1) for line in done.stdout.splitlines() if line[:1].isdigit()]
        if not lines:
            raise RuntimeError(f"the child says nothing: {done.stderr[-2000:]}")
        yield from ((int(n), what) for n, what in lines if what != "start")
        number, what = int(lines[-1][0]), lines[-1][1]
        if what == "start":
            yield number, f"WRONG exit code {done.returncode}: {done.stderr[:1500]}"
        first = number + 1


def main() -> None:
    """The run that the arguments name; the exit code is 1 where something was wrong."""
    first, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    if sys.argv[4:] == ["child"]:
        return run_children(first, count, folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for number, what in fates(first, first + count, folder):
        counts[what.split(" ")[0]] += 1
        if what.startswith(("WRONG", "DIFFERS")):
            say(f"op {number}: {what}")
    say(
        f"{counts['fine']} fine, {counts['refused']} refused, "
        f"{counts['DIFFERS']} differ, {counts['WRONG']} wrong"
    )
    sys.exit(counts["WRONG"] > 0)


if __name__ == "__main__":
    main()
