# SPDX-License-Identifier: Apache-2.0
"""The child process: runs mutations first … last − 1 of a kind and prints a line for each.

    python -m tests.robustness.run_mutations KIND FIRST LAST FOLDER

"N start" comes before a mutation, so that a crash has a name; "N" and one of fine, refused, or
WRONG and what happened, after it. FOLDER/seed holds what `seed_files` writes.
"""

import random
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx

import qcompile
from qcompile import measure
from qcompile.errors import QcompileError, VerificationError
from tests.robustness.mutations import TOML, YAML, mutate_artifact, mutate_bytes, mutate_model

SEEDS = ("mlp", "cnn", "tied")
PRESETS = ("w8a8-dynamic", "w4a16", "w2a4-dynamic")
_MEMORY_BYTES = 8 << 30  # a size of 2^40 has to fail here, not on the machine


def run_recipe(rng: random.Random, folder: Path, seeds: Path) -> str:
    """Read a damaged recipe."""
    text, suffix = rng.choice(((YAML, ".yaml"), (TOML, ".toml")))
    path = folder / f"recipe{suffix}"
    path.write_bytes(mutate_bytes(text.encode(), rng))
    qcompile.Recipe.read(path)
    return "fine"


def run_model(rng: random.Random, folder: Path, seeds: Path) -> str:
    """Compile a damaged model; nothing but the artifact may appear."""
    source, path = seeds / f"{rng.choice(SEEDS)}.onnx", folder / "model.onnx"
    if rng.random() < 0.3:
        path.write_bytes(mutate_bytes(source.read_bytes(), rng))
    else:
        path.write_bytes(mutate_model(onnx.load(source), rng).SerializeToString())
    try:
        recipe = qcompile.Recipe(preset=rng.choice(PRESETS))
        qcompile.compile(path, output=folder / "out.qc", recipe=recipe)
    finally:
        others = {p.name for p in folder.iterdir()} - {"model.onnx", "out.qc"}
        if others:
            raise AssertionError(f"left behind: {sorted(others)}")
    return "fine"


def run_artifact(rng: random.Random, folder: Path, seeds: Path) -> str:
    """Load and run a damaged artifact."""
    out = folder / "out.qc"
    mutate_artifact(out, seeds / f"{rng.choice(SEEDS)}.{rng.choice(PRESETS)}.qc", rng)
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
    from tests.pipeline import nets

    measure.SECONDS = 0.0
    for name in SEEDS:
        path = getattr(nets, name)().save(folder / f"{name}.onnx")
        for preset in PRESETS:
            out = folder / f"{name}.{preset}.qc"
            qcompile.compile(path, output=out, recipe=qcompile.Recipe(preset=preset))


def run(kind: str, number: int, seeds: Path, folder: Path) -> str:
    """fine, refused, or WRONG and why."""
    folder.mkdir()
    try:
        return KINDS[kind](random.Random(number), folder, seeds)
    except VerificationError as error:
        return f"WRONG VerificationError: {error}".replace("\n", " ")
    except (QcompileError, MemoryError):
        return "refused"
    except Exception as error:  # what a user would see as a bug of qcompile
        return f"WRONG {type(error).__name__}: {error}".replace("\n", " ")[:600]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def say(line: str) -> None:
    """A line for the parent, at once: the next mutation may end the process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the range that the arguments name."""
    kind, first, last, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    measure.SECONDS = 0.0
    for number in range(first, last):
        say(f"{number} start")
        say(f"{number} {run(kind, number, folder / 'seed', folder / f'{kind}{number}')}")


if __name__ == "__main__":
    main()
