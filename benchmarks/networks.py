# SPDX-License-Identifier: Apache-2.0
"""Whole models: ONNX Runtime in float32 and in its own static int8 (QDQ) against qcompile.

    QC_DATA=… python -m benchmarks.networks [--threads N] [--seconds S]

All sessions run round-robin in one process, one input of batch 1; figures are medians and the
ratio to float32 and to ORT's int8. Without QC_DATA only the models of models/ are measured.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import qcompile
from benchmarks.interleave import idle_options
from models import digits


class Reader(CalibrationDataReader):
    """Samples one by one, as ORT's quantizer wants them."""

    def __init__(self, name: str, samples: np.ndarray) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter({name: x[None]} for x in samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample."""
        return next(self._feeds, None)


def plain(path: Path, threads: int) -> ort.InferenceSession:
    """A session of ONNX Runtime alone, with qcompile's options: nothing saturates without VNNI."""
    return ort.InferenceSession(path, idle_options(threads), providers=["CPUExecutionProvider"])


def ort_int8(model: Path, samples: np.ndarray, folder: Path) -> Path:
    """ONNX Runtime's static QDQ model: unsigned activations, signed weights, a scale a channel."""
    name = plain(model, 1).get_inputs()[0].name
    prepared, quantized = folder / "prepared.onnx", folder / "ort-int8.onnx"
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(quantized),
        Reader(name, samples),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return quantized


def sessions(model: Path, samples: np.ndarray, folder: Path, threads: int) -> dict[str, Any]:
    """Every way to run the model, by name."""
    found: dict[str, Any] = {"ORT float32": plain(model, threads)}
    found["ORT int8 QDQ"] = plain(ort_int8(model, samples, folder), threads)
    name = found["ORT float32"].get_inputs()[0].name
    for preset in ("w8a8", "w4a8", "w2a8", "w8a8-dynamic", "w4a8-dynamic"):
        artifact = qcompile.compile(
            model,
            "cpu",
            folder / f"{preset}.qc",
            recipe=qcompile.Recipe(preset=preset),
            calibration_data={name: samples} if "dynamic" not in preset else None,
        )
        found[f"qcompile {preset}"] = qcompile.load(artifact.folder, options=idle_options(threads))
    return found


def measure(found: dict[str, Any], feed: dict[str, np.ndarray], seconds: float) -> dict[str, float]:
    """Median milliseconds, round-robin."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for session in found.values():
        session.run(None, feed)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, session in found.items():
            start = time.perf_counter()
            session.run(None, feed)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(row)) * 1000 for name, row in times.items()}


def models() -> Iterator[tuple[str, Path, np.ndarray]]:
    """Name, file, calibration samples."""
    yield "digits", digits.path(), digits.data("calibration")[0][:64]
    data = os.environ.get("QC_DATA")
    if data is None:
        print("QC_DATA is not set: only models/ is measured")
        return
    rng = np.random.default_rng(0)
    for name in ("resnet20", "resnet56"):
        path = Path(data) / "cifar_resnet" / f"{name}_cifar10.onnx"
        yield name, path, rng.standard_normal((32, 3, 32, 32)).astype(np.float32)


def main() -> None:
    """Print one table a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    for name, path, samples in models():
        with tempfile.TemporaryDirectory() as folder:
            found = sessions(path, samples, Path(folder), arguments.threads)
            feed = {found["ORT float32"].get_inputs()[0].name: samples[:1]}
            rows = measure(found, feed, arguments.seconds)
        print(f"\n{name}, batch 1, {arguments.threads} threads")
        print(f"{'':24} {'ms':>8} {'x float32':>10} {'x ORT int8':>11}")
        for label, ms in rows.items():
            ratios = rows["ORT float32"] / ms, rows["ORT int8 QDQ"] / ms
            print(f"{label:24} {ms:8.3f} {ratios[0]:10.2f} {ratios[1]:11.2f}")


if __name__ == "__main__":
    main()
