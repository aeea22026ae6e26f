# SPDX-License-Identifier: Apache-2.0
"""`make demo`: compile the models of this folder for cpu, run them, print before and after.

Accuracy is that of the compiled artifact on data it was not calibrated with, size is bytes on
disk, and time is one input on one thread, interleaved with the float model.
"""

import tempfile
from pathlib import Path

import qcompile
from models import charlm, digits

RUNS = (
    ("digits", "w8a8"),
    ("digits", "w4a8"),
    ("digits", "w8a8-dynamic"),
    ("charlm", "w8a8-dynamic"),
    ("charlm", "w4a8-dynamic"),
    ("charlm", "w4a16"),
)
COLUMNS = "{:8} {:14} {:>9} {:>21} {:>24} {:>26}"


def calibration(name: str) -> dict[str, object] | None:
    """Calibration samples of the CNN; the language model needs none."""
    return {"image": digits.data("calibration")[0]} if name == "digits" else None


def row(name: str, preset: str, folder: Path) -> str:
    """Compile, score and measure one preset."""
    model = digits.path() if name == "digits" else charlm.path()
    score = digits.accuracy if name == "digits" else charlm.loss
    artifact = qcompile.compile(
        model,
        "cpu",
        folder / f"{name}-{preset}.qc",
        recipe=qcompile.Recipe(preset=preset),
        calibration_data=calibration(name) if preset.endswith("a8") else None,
        metric=score,
    )
    metric, speed = artifact.measured["metric"], artifact.measured["speed"]
    before, after = artifact.content["source"]["bytes"] / 1000, artifact.model_bytes / 1000
    unit = "%" if name == "digits" else "nats"
    return COLUMNS.format(
        name,
        preset,
        f"{100 * artifact.content['coverage']:.1f} %",
        f"{metric['float']:.3f} → {metric['compiled']:.3f} {unit}",
        f"{before:,.0f} → {after:,.0f} kB ({before / after:.1f}×)",
        f"{speed['float_ms']:.3f} → {speed['compiled_ms']:.3f} ms ({speed['ratio']:.2f}×)",
    )


def main() -> None:
    """Print the table."""
    heads = ("model", "preset", "coverage", "accuracy or loss", "size", "time, 1 thread")
    print(COLUMNS.format(*heads))
    with tempfile.TemporaryDirectory() as folder:
        for name, preset in RUNS:
            print(row(name, preset, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
