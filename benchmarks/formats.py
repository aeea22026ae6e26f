# SPDX-License-Identifier: Apache-2.0
"""What number formats give on real models, at equal bits, with rotation and without.

    QC_DATA=… python -m benchmarks.formats [--models stories] [--preset w4a16] [--edges 4]
        [--formats uint4,nf4,nvfp4,auto] [--limit 1000]

A row is a format: bytes of the artifact's weights, the metric of the artifact and its paired
difference to the float model with the 95 % interval, and the KL divergence of its outputs from the
float ones, nats. Codes are those of the default without tuning, which would hide what a format is.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import qcompile
from benchmarks.ladder import cells
from benchmarks.networks import plain
from benchmarks.peer_data import CASES, Samples, score
from benchmarks.peers import chosen_models

FORMATS = (
    *("uint4", "int4", "e2m1", "e3m0", "nf4", "lloyd4", "kmeans4", "bitmod4", "posit4_1"),
    *("nvint4", "nvfp4", "mxint4", "mxfp4", "auto"),
)
_BATCH = 20


def kl_divergence(session, floats, samples: Samples) -> float:
    """The mean of KL(float ‖ compiled) over the distributions that the outputs are."""
    total, count = 0.0, 0
    for i in range(0, len(samples.inputs), _BATCH):
        inputs = samples.inputs[i : i + _BATCH]
        wanted, found = (
            _log_softmax(s.run(None, {s.get_inputs()[0].name: inputs})[0])
            for s in (floats, session)
        )
        total += float((np.exp(wanted) * (wanted - found)).sum())
        count += wanted.size // wanted.shape[-1]
    return total / count


def _log_softmax(logits: NDArray) -> NDArray[np.float64]:
    x = logits.reshape(len(logits), -1, logits.shape[-1]).astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def study(name: str, arguments: argparse.Namespace, data: Path) -> None:
    """Print the rows of one model."""
    case = CASES[name]
    samples = case.read(data, arguments.limit)
    floats = plain(data / case.file, 1)
    wanted = score(floats, samples, case.metric)
    feed = {floats.get_inputs()[0].name: samples.calibration}
    edges = arguments.edges or "by default"
    print(f"\n{name} {arguments.preset}, edges {edges}: {case.metric}, ", end="")
    print(f"float {wanted.mean():.4g}, {len(wanted)} samples; formats at equal bits")
    for form in arguments.formats.split(","):
        for rotation in ("off", "auto"):
            recipe = qcompile.Recipe(
                arguments.preset,
                weight_format=form,
                edge_bits=arguments.edges,
                rotation=rotation,
                effort="quick",
            )
            with tempfile.TemporaryDirectory() as folder:
                artifact = qcompile.compile(
                    data / case.file,
                    "cpu",
                    Path(folder) / "model.qc",
                    recipe=recipe,
                    calibration_data=feed,
                )
                size = sum(f.stat().st_size for f in artifact.folder.glob("model.onnx*"))
                session = qcompile.load(artifact.folder, 1)
                found = score(session, samples, case.metric)
                kl = kl_divergence(session, floats, samples)
            print(
                f"  {form:12} rotation {rotation:5}{size / 1000:9.1f} kB{cells(found, wanted)}"
                f"   KL {kl:.5f}",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", help="names with commas between them; default: all found")
    parser.add_argument("--preset", default="w4a16")
    parser.add_argument("--edges", type=int, help="bits of the edges; default: the preset's")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--limit", type=int, default=10_000, help="samples to score")
    arguments = parser.parse_args()
    if "QC_DATA" not in os.environ:
        raise SystemExit("QC_DATA is not set: this benchmark needs its models and data")
    data = Path(os.environ["QC_DATA"])
    for name in chosen_models(arguments.models, data):
        study(name, arguments, data)


if __name__ == "__main__":
    main()
