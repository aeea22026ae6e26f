# SPDX-License-Identifier: Apache-2.0
"""The digits model: a small residual and depthwise CNN over 8x8 grey images of handwritten digits.

    python -m models.digits             # prints the test accuracy of models/digits.onnx
    python -m models.digits other.onnx  # of another plain ONNX file with the same input and output

Input `image` float32 [N, 1, 8, 8], pixel / 16; output `logits` float32 [N, 10].
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np

from models.files import FOLDER, Session, checked, open_session

DATA_SHA256 = "a0712fbfc3b6e8004f042855b57870d7007072b33190cb37b9d46d2f247ebff2"
TRAIN_COUNT = (
    1297  # the file is stored shuffled: the first 1297 images are "train", the other 500 "test"
)
CALIBRATION_COUNT = 256


def path() -> Path:
    """The path of the float model."""
    return FOLDER / "digits.onnx"


@cache
def _all_data() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [1797, 8, 8] of 0..16, and labels, uint8 [1797]."""
    with np.load(checked("digits_data.npz", DATA_SHA256)) as stored:
        return stored["images"], stored["labels"]


def data(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [n, 1, 8, 8] in 0..1 and labels int64 [n].

    `split` is "train" (n = 1297), "test" (n = 500) or "calibration" (the first 256 of train).
    """
    images, labels = _all_data()
    ranges = {
        "train": slice(0, TRAIN_COUNT),
        "test": slice(TRAIN_COUNT, None),
        "calibration": slice(0, CALIBRATION_COUNT),
    }
    if split not in ranges:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(ranges)}")
    chosen = ranges[split]
    return images[chosen, None].astype(np.float32) / np.float32(16), labels[chosen].astype(np.int64)


def accuracy(session: Session) -> float:
    """Top-1 accuracy over the 500 test images, in percent."""
    images, labels = data("test")
    (logits,) = session.run(["logits"], {"image": images})
    return 100.0 * float(np.mean(np.argmax(logits, axis=1) == labels))


if __name__ == "__main__":
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else path()
    print(f"{model}: test accuracy {accuracy(open_session(model)):.2f} %")
