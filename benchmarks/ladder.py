# SPDX-License-Identifier: Apache-2.0
"""What each step of the compiler gives on real models: accuracy of the artifact, and time.

    QC_DATA=… python -m benchmarks.ladder [--models resnet20,stories] [--settings w3a8/8,w2a8/8]
        [--limit 1000]

A row is one more step than the row above: nearest codes, bias correction, GPTQ, descent, rotation,
tuning. The seconds are those of the whole compilation, its checks included; the difference to the
float model is paired, with its 95 % interval. A setting is a preset and the bits of its edges.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import qcompile
from benchmarks.networks import plain
from benchmarks.peer_child import Setting
from benchmarks.peer_data import CASES, Samples, score
from benchmarks.peers import SETTINGS, chosen_models, paired

STEPS: dict[str, dict[str, Any]] = {
    "nearest": {
        "bias_correction": False,
        "weight_rounding": "nearest",
        "rotation": "off",
        "effort": "quick",
    },
    "bias correction": {"bias_correction": True},
    "GPTQ": {"weight_rounding": "gptq"},
    "descent": {"weight_rounding": "descent"},
    "rotation": {"rotation": "auto"},
    "tuning": {"effort": "default"},
}


def climb(name: str, setting: Setting, data: Path, samples: Samples) -> None:
    """Print the rows of one model and setting."""
    case = CASES[name]
    session = plain(data / case.file, 1)
    floats = score(session, samples, case.metric)
    feed = {session.get_inputs()[0].name: samples.calibration}
    recipe: dict[str, Any] = {"preset": setting.preset, "edge_bits": setting.edge_bits}
    print(f"\n{name} {setting.preset}, edges {setting.edge_bits}: {case.metric}, ", end="")
    print(f"float {floats.mean():.4g}, {len(floats)} samples")
    for step, change in STEPS.items():
        recipe |= change
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            artifact = qcompile.compile(
                data / case.file,
                "cpu",
                Path(folder) / "model.qc",
                recipe=qcompile.Recipe(**recipe),
                calibration_data=feed,
            )
            seconds = time.perf_counter() - start
            found = score(qcompile.load(artifact.folder, 1), samples, case.metric)
        print(f"  {step:16}{cells(found, floats)}{seconds:8.1f} s", flush=True)


def cells(found: np.ndarray, floats: np.ndarray) -> str:
    """The mean, its paired difference to the float model and the 95 % interval."""
    difference, error = paired(found, floats)
    low, high = difference - 1.96 * error, difference + 1.96 * error
    return f"{found.mean():9.4g}{difference:+9.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    """Print the ladders."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", help="names with commas between them; default: all found")
    parser.add_argument("--settings", help="default: w8a8, of language models w4a16")
    parser.add_argument("--limit", type=int, default=10_000, help="samples to score")
    arguments = parser.parse_args()
    if "QC_DATA" not in os.environ:
        raise SystemExit("QC_DATA is not set: this benchmark needs its models and data")
    data = Path(os.environ["QC_DATA"])
    for name in chosen_models(arguments.models, data):
        samples = CASES[name].read(data, arguments.limit)
        for setting in (arguments.settings or SETTINGS[CASES[name].metric]).split(","):
            climb(name, Setting.parse(setting), data, samples)


if __name__ == "__main__":
    main()
