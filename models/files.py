# SPDX-License-Identifier: Apache-2.0
"""Reads the committed files of this folder and checks their sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FOLDER = Path(__file__).resolve().parent


class Session(Protocol):
    """What the metrics need of a model: the `run` of onnxruntime.InferenceSession."""

    def run(self, output_names: list[str] | None, input_feed: dict[str, np.ndarray]) -> Any:
        """The named outputs, in order, of the model on the named inputs."""


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked(name: str, expected: str) -> Path:
    """The path of a file of this folder, once its sha256 is found to be the expected one."""
    path = FOLDER / name
    found = sha256(path)
    if found != expected:
        raise ValueError(
            f"{path}: sha256 is {found}, expected {expected}; restore the committed file"
        )
    return path


def open_session(model: Path) -> Session:
    """An onnxruntime session of a plain ONNX file on the CPU, with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
