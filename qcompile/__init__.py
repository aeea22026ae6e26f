# SPDX-License-Identifier: Apache-2.0
"""qcompile: a float ONNX model goes in, a low-bit model that really runs low-bit comes out."""

from qcompile.artifact import Artifact
from qcompile.artifact import load as load_artifact
from qcompile.compare import compare
from qcompile.compile import Limits, compile
from qcompile.errors import QcompileError
from qcompile.images import ImageFolder
from qcompile.op_libraries import use_op_library
from qcompile.recipe import Recipe, Rule
from qcompile.version import VERSION as __version__

# Importing the stage qcompile.load has bound its module to this name: bind the function last.
load = load_artifact

__all__ = [
    "Artifact",
    "ImageFolder",
    "Limits",
    "QcompileError",
    "Recipe",
    "Rule",
    "__version__",
    "compare",
    "compile",
    "load",
    "use_op_library",
]
