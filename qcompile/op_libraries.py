# SPDX-License-Identifier: Apache-2.0
"""The user's custom-op libraries of ONNX Runtime, which every session of the process registers."""

from pathlib import Path

import onnxruntime as ort

from qcompile.errors import InputError

_used: dict[Path, None] = {}


def use_op_library(path: str | Path) -> None:
    """Load a custom-op library, for models with ops of its domains; it is code that runs.

    It stays for all that the process does, as loaded code cannot be taken back. InputError where
    ONNX Runtime does not load it.
    """
    where = Path(path).absolute()
    if not where.is_file():
        raise InputError(f"op library {path}: no such file")
    if where.resolve() in _used:
        return
    try:
        ort.SessionOptions().register_custom_ops_library(str(where))
    except Exception as error:  # ORT raises many types; all carry one readable message
        raise InputError(f"op library {path}: ONNX Runtime does not load it: {error}") from None
    _used[where.resolve()] = None


def used_op_libraries() -> tuple[Path, ...]:
    """Those of this process, in their order."""
    return tuple(_used)
