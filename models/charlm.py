# SPDX-License-Identifier: Apache-2.0
"""The charlm model: a byte-level decoder transformer over Python source text.

    python -m models.charlm             # prints the held-out loss of models/charlm.onnx
    python -m models.charlm other.onnx  # of another plain ONNX file with the same input and output

Input `tokens` int64 [B, T], T up to 128; output `logits` float32 [B, T, V].
Token i is the i-th of the sorted distinct bytes of `stdlib_slice.txt` (V = 96).
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np

from models.files import FOLDER, Session, checked, open_session

TEXT_SHA256 = "d50a45d7392c88363a437b712df2ca3bdb25499592c469ae5ba835b58657a64c"
CONTEXT = 128
CALIBRATION_COUNT = 64
# Byte ranges of the text. "validation" stops the training; only the metric reads "test".
RANGES = {"train": (0, 85_000), "validation": (85_000, 90_000), "test": (90_000, 100_000)}


def path() -> Path:
    """The path of the float model."""
    return FOLDER / "charlm.onnx"


@cache
def text() -> bytes:
    """The whole slice of text, 100,000 bytes."""
    return checked("stdlib_slice.txt", TEXT_SHA256).read_bytes()


@cache
def vocabulary() -> bytes:
    """The byte of each token: the sorted distinct bytes of the text, V of them."""
    return bytes(sorted(set(text())))


def encode(source: bytes) -> np.ndarray:
    """Tokens int64 [len(source)] of bytes that are all in the vocabulary."""
    unknown = set(source) - set(vocabulary())
    if unknown:
        raise ValueError(f"bytes {sorted(unknown)} are not in the vocabulary")
    table = np.zeros(256, np.int64)
    table[list(vocabulary())] = np.arange(len(vocabulary()))
    return table[np.frombuffer(source, np.uint8)]


def decode(tokens: np.ndarray) -> bytes:
    """The bytes of tokens int64 [n]."""
    return bytes(vocabulary()[token] for token in tokens)


def data(split: str) -> np.ndarray:
    """Token windows int64 [n, 128].

    `split` is "train", "validation", "test" or "calibration" (64 windows of train).

    A window begins with the last byte of the one before it, so every byte of a
    range but its first is predicted once (and up to 126 bytes at its end never).
    """
    known = (*RANGES, "calibration")
    if split not in known:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(known)}")
    begin, end = RANGES["train" if split == "calibration" else split]
    tokens = encode(text()[begin:end])
    starts = np.arange(0, len(tokens) - CONTEXT + 1, CONTEXT - 1)
    if split == "calibration":
        starts = starts[np.arange(CALIBRATION_COUNT) * len(starts) // CALIBRATION_COUNT]
    return tokens[starts[:, None] + np.arange(CONTEXT)]


def mean_loss(logits: np.ndarray, tokens: np.ndarray) -> float:
    """Mean nats of the tokens [n, T] after the first, by the logits [n, T, V] one place before."""
    scores = logits[:, :-1].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(scores).sum(axis=-1))
    chosen = np.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]
    return float(np.mean(log_sum - chosen))


def loss(session: Session) -> float:
    """Mean nats per character over the held-out windows (data("test"))."""
    tokens = data("test")
    (logits,) = session.run(["logits"], {"tokens": tokens})
    return mean_loss(logits, tokens)


if __name__ == "__main__":
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else path()
    print(f"{model}: held-out loss {loss(open_session(model)):.4f} nats per character")
