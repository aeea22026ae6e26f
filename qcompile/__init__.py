# SPDX-License-Identifier: Apache-2.0
"""qcompile: a float ONNX model goes in, a low-bit model that really runs with low-bit kernels comes out."""

from qcompile.artifact import Artifact, load
from qcompile.compare import compare
from qcompile.compile import Limits, compile
from qcompile.errors import QcompileError
from qcompile.recipe import Recipe, Rule
from qcompile.version import VERSION as __version__

__all__ = [
    "Artifact",
    "Limits",
    "QcompileError",
    "Recipe",
    "Rule",
    "__version__",
    "compare",
    "compile",
    "load",
]
