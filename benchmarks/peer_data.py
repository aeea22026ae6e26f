# SPDX-License-Identifier: Apache-2.0
"""Models, calibration samples and scores for benchmarks.peers, read from the folder QC_DATA.

cifar10_jpeg/{train,test}.npz hold `jpeg` (files end to end), `offsets` and `labels`;
mlperf_tiny/kws01_1000.npz x_int8, scale, zero_point and y; imagenet_sample labels.csv and img/;
stories260k the vocabulary (pieces, scores) of the text in text/. Needs pillow (extra `bench`).
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

CALIBRATION, WINDOW = 128, 256


@dataclass(frozen=True)
class Samples:
    """Inputs to calibrate with, and others to score; of tokens the next one is the label."""

    calibration: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Case:
    """A model and its data; reading gives at most so many samples to score."""

    file: str
    read: Callable[[Path, int], Samples]
    metric: str = "top-1, %"


def score(session: ort.InferenceSession, samples: Samples, metric: str) -> np.ndarray:
    """One value a sample: 100 or 0 for a class, the mean loss of a window for tokens."""
    name, values = session.get_inputs()[0].name, []
    for i in range(0, len(samples.inputs), 20):
        logits = session.run(None, {name: samples.inputs[i : i + 20]})[0]
        labels = samples.labels[i : i + 20]
        if metric == "loss":
            logits = logits.astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
            values.append((np.log(np.exp(logits).sum(-1)) - chosen).mean(-1))
        else:
            values.append(100.0 * (logits.reshape(len(labels), -1).argmax(1) == labels))
    return np.concatenate(values)


def _shuffled(count: int) -> np.ndarray:
    """The files are sorted by class."""
    return np.random.default_rng(0).permutation(count)


def _cifar(data: Path, limit: int, mean: Any = 0, deviation: Any = 1, unit: float = 1) -> Samples:
    def images(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        with np.load(data / "cifar10_jpeg" / f"{split}.npz") as pack:
            jpeg, offsets, labels = pack["jpeg"].tobytes(), pack["offsets"], pack["labels"]
        chosen = _shuffled(len(labels))[:count]
        files = (jpeg[offsets[i] : offsets[i + 1]] for i in chosen)
        x = np.stack([np.asarray(Image.open(io.BytesIO(file)), np.float32) for file in files])
        x = (x / np.float32(unit) - np.float32(mean)) / np.float32(deviation)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), labels[chosen]

    return Samples(images("train", CALIBRATION)[0], *images("test", limit))


def _keywords(data: Path, limit: int) -> Samples:
    """Every fifth word is for calibration."""
    with np.load(data / "mlperf_tiny" / "kws01_1000.npz") as pack:
        x = (pack["x_int8"].astype(np.float32) - pack["zero_point"]) * pack["scale"]
        x, y = x.astype(np.float32).reshape(-1, 1, 49, 10), pack["y"]
    kept = np.arange(len(x)) % 5 == 0
    order = _shuffled(int((~kept).sum()))[:limit]
    return Samples(x[kept][:CALIBRATION], x[~kept][order], y[~kept][order])


def _imagenet(data: Path, limit: int) -> Samples:
    """The crop of 227, BGR minus its mean; every seventh image is for calibration."""
    with (data / "imagenet_sample" / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def images(part: list[dict[str, str]]) -> np.ndarray:
        files = (data / "imagenet_sample" / "img" / row["file"] for row in part)
        x = [np.asarray(Image.open(f).crop((14, 14, 241, 241)), np.float32) for f in files]
        x = np.stack(x)[..., ::-1] - np.float32([104, 117, 123])
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    scored = [row for i, row in enumerate(rows) if i % 7]
    scored = [scored[i] for i in _shuffled(len(scored))[:limit]]
    labels = np.array([int(row["label"]) for row in scored])
    return Samples(images(rows[::7][:CALIBRATION]), images(scored), labels)


def _encode(word: str, index: dict[bytes, int], scores: list[float]) -> list[int]:
    """Byte-pair encoding: the neighbours whose union scores best are merged until none is known."""
    parts: list[bytes] = []
    for letter in word:
        code = letter.encode()
        parts += [code] if code in index else [f"<0x{byte:02X}>".encode() for byte in code]
    while True:
        unions = [a + b for a, b in itertools.pairwise(parts)]
        known = [(scores[index[u]], -i) for i, u in enumerate(unions) if u in index]
        if not known:
            return [index[part] for part in parts]
        at = -max(known)[1]
        parts[at : at + 2] = [unions[at]]


def _stories(data: Path, limit: int) -> Samples:
    """Windows that begin with the start token; the last ones are for calibration."""
    vocabulary = json.loads((data / "stories260k" / "tok512.json").read_text(encoding="utf-8"))
    index = {piece.encode("latin1"): i for i, piece in enumerate(vocabulary["vocab"])}
    text = (data / "text" / "tinystories_sample.txt").read_text(encoding="utf-8", errors="replace")
    words, cache = re.findall(r" ?[^ ]+| ", " " + text), dict[str, list[int]]()
    for word in set(words):
        cache[word] = _encode(word, index, vocabulary["scores"])
    ids = np.array([i for word in words for i in cache[word]], np.int64)
    rows = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
    rows = np.concatenate([np.ones((len(rows), 1), np.int64), rows], 1)
    scored = rows[:-CALIBRATION][:limit]
    return Samples(rows[-CALIBRATION:, :-1], scored[:, :-1], scored[:, 1:])


_IMAGENET_RGB = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225), "unit": 255}
_CIFAR_RGB = {"mean": (0.4914, 0.4822, 0.4465), "deviation": (0.2023, 0.1994, 0.2010), "unit": 255}
CASES = {
    "resnet20": Case("cifar_resnet/resnet20_cifar10.onnx", partial(_cifar, **_IMAGENET_RGB)),
    "resnet56": Case("cifar_resnet/resnet56_cifar10.onnx", partial(_cifar, **_IMAGENET_RGB)),
    "resnet8": Case("mlperf_tiny/resnet8_cifar10.onnx", _cifar),
    "kws": Case("mlperf_tiny/ds_cnn_kws.onnx", _keywords),
    "squeezenet": Case("squeezenet1.1/squeezenet1.1.onnx", _imagenet),
    "vit": Case("vit_cifar/vit_cifar10.onnx", partial(_cifar, **_CIFAR_RGB)),
    "stories": Case("stories260k/stories260k.onnx", _stories, "loss"),
}
