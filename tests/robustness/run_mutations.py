# SPDX-License-Identifier: Apache-2.0
"""The child process: runs mutations first, first + step … of a kind and prints a line for each.

    python -m tests.robustness.run_mutations KIND FIRST LAST STEP FOLDER

"N start" comes before a mutation, so that a crash has a name; "N" and one of fine, refused, or
WRONG and what happened, after it. FOLDER/seed holds what `seed_files` writes.
"""

import functools
import io
import json
import os
import random
import resource
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console

import qcompile
from qcompile import measure, report
from qcompile.artifact import Artifact
from qcompile.compile import plan_only
from qcompile.errors import QcompileError, VerificationError
from qcompile.inspection import artifact_facts
from tests.robustness import mutations as wrong
from tests.robustness import seeds
from tests.robustness.artifact_faults import Change, faults

_MEMORY_BYTES = 8 << 30  # a size of 2^40 has to fail here, not on the machine
_NAMES = "names.json"


def run_recipe(rng: random.Random, folder: Path, source: Path) -> str:
    """Read a damaged recipe, and plan with it."""
    text, suffix = rng.choice(((wrong.YAML, ".yaml"), (wrong.TOML, ".toml")))
    path = folder / f"recipe{suffix}"
    path.write_bytes(wrong.mutate_recipe(text, suffix, rng))
    recipe = qcompile.Recipe.read(path)
    plan_only(source / "cnn.onnx", rng.choice(("cpu", "ort")), recipe)
    return "fine"


def run_model(rng: random.Random, folder: Path, source: Path) -> str:
    """Compile a damaged model; nothing but the artifact may appear."""
    name = rng.choice(_names(source)["models"])
    path, data = folder / "model.onnx", source / f"{name}.npz"
    if name == "outside":
        os.link(source / "outside.data", folder / "outside.data")
    original = source / f"{name}.onnx"
    if rng.random() < 0.3:
        path.write_bytes(wrong.mutate_bytes(original.read_bytes(), rng))
    else:
        model = wrong.mutate_model(onnx.load(original, load_external_data=False), rng)
        path.write_bytes(model.SerializeToString())
    preset: str | None = rng.choice((*seeds.DYNAMIC, *seeds.STATIC))
    if not data.exists():
        preset = rng.choice((None, *seeds.DYNAMIC))
    before = {p.name for p in folder.iterdir()}
    try:
        qcompile.compile(
            path,
            rng.choice(("cpu", "cpu", "ort")),
            folder / "out.qc",
            recipe=qcompile.Recipe(preset=preset, weight_rounding="nearest"),
            calibration_data=data if preset in seeds.STATIC else None,
        )
    finally:
        others = {p.name for p in folder.iterdir()} - before - {"out.qc"}
        if others:
            raise AssertionError(f"left behind: {sorted(others)}")
    return "fine"


def run_artifact(rng: random.Random, folder: Path, source: Path) -> str:
    """Inspect, load and run an artifact with damaged bytes."""
    out = _linked(source / rng.choice(_names(source)["artifacts"]), folder / "out.qc")
    wrong.mutate_artifact(out, rng)
    artifact = Artifact.read(out)
    report.inspect_artifact(artifact, artifact_facts(artifact), Console(file=io.StringIO()))
    return _run_loaded(out)


def run_fault(number: int, folder: Path, source: Path) -> str:
    """Load and run an artifact with the fault of that number."""
    name, change = fault_list(source)[number]
    out = _linked(source / name, folder / "out.qc")
    model = onnx.ModelProto()
    model.CopyFrom(_model_of(source / name))
    change(model)
    wrong.rewrite(out / "model.onnx", model.SerializeToString())
    wrong.agree_on_sizes(out)
    return _run_loaded(out)


@functools.cache
def fault_list(source: Path) -> list[tuple[str, Change]]:
    """Artifact and change of every fault of every artifact."""
    named = _names(source)["artifacts"]
    return [(name, change) for name in named for _, change in faults(_model_of(source / name))]


@functools.cache
def _model_of(artifact: Path) -> onnx.ModelProto:
    return onnx.load(artifact / "model.onnx", load_external_data=False)


def _linked(source: Path, folder: Path) -> Path:
    """A copy whose files are links to those of the source."""
    folder.mkdir()
    for file in source.iterdir():
        os.link(file, folder / file.name)
    return folder


def _run_loaded(out: Path) -> str:
    session = qcompile.load(out, threads=1)
    feed = {}
    for each in session.get_inputs():
        dims = [d if isinstance(d, int) and 0 <= d < 100 else 2 for d in each.shape]
        feed[each.name] = np.ones(dims, np.int64 if "int" in each.type else np.float32)
    try:
        session.run(None, feed)
    except Exception as error:  # any of ORT's own, which are not built into Python
        if type(error).__module__ in ("builtins", "qcompile") and not _is_of_ort(error):
            raise
        return "refused"
    return "fine"


def _is_of_ort(error: Exception) -> bool:
    """ORT raises RuntimeError and ValueError (an input that it does not take) itself too."""
    return isinstance(error, RuntimeError | ValueError)


KINDS = {"recipe": run_recipe, "model": run_model, "artifact": run_artifact}


def seed_files(folder: Path) -> None:
    """The models and artifacts that are damaged."""
    with patch.object(measure, "SECONDS", 0.0):
        names = {"models": seeds.write_models(folder), "artifacts": seeds.write_artifacts(folder)}
    (folder / _NAMES).write_text(json.dumps(names))


@functools.cache
def _names(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((folder / _NAMES).read_text())
    return found


def run(kind: str, number: int, source: Path, folder: Path) -> str:
    """fine, refused, or WRONG and why."""
    folder.mkdir()
    try:
        if kind == "fault":
            return run_fault(number, folder, source)
        return KINDS[kind](random.Random(number), folder, source)
    except VerificationError as error:
        return f"WRONG VerificationError: {error}".replace("\n", " ")
    except (QcompileError, MemoryError) as error:
        return _refused(error)
    except Exception as error:  # what a user would see as a bug of qcompile
        return f"WRONG {type(error).__name__}: {error}".replace("\n", " ")[:600]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refused(error: Any) -> str:
    """A refusal says something, and is bad input: exit code 2."""
    is_memory = isinstance(error, MemoryError)
    is_right = is_memory or (error.exit_code == 2 and str(error).strip())
    return "refused" if is_right else f"WRONG exit code 1: {error}".replace("\n", " ")[:600]


def say(line: str) -> None:
    """A line for the parent, at once: the next mutation may end the process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the range that the arguments name."""
    kind, folder = sys.argv[1], Path(sys.argv[5])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    ort.set_default_logger_severity(4)
    measure.SECONDS = 0.0
    for number in range(*map(int, sys.argv[2:5])):
        say(f"{number} start")
        say(f"{number} {run(kind, number, folder / 'seed', folder / f'{kind}{number}')}")


if __name__ == "__main__":
    main()
