# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: the op library of `QC_LIBRARY` in place of the installed one.

Its memory is AddressSanitizer's where the library is a sanitized one: each tensor is a block of
its own, whose ends are seen, because no arena of ONNX Runtime holds several.
"""

import os
from pathlib import Path

import onnxruntime as ort

from qcompile import runtime_ops

LIBRARY = Path(os.environ["QC_LIBRARY"])


class SessionOptions(ort.SessionOptions):
    """Options without an arena."""

    def __init__(self) -> None:
        super().__init__()
        self.enable_cpu_mem_arena = False


def pytest_configure() -> None:
    """Before the tests are imported, and so before one takes a name."""
    runtime_ops.library_path = lambda: LIBRARY  # type: ignore[assignment]
    ort.SessionOptions = SessionOptions
