# SPDX-License-Identifier: Apache-2.0
"""The Before and After of the normalise passes are ONNX text: the pass turns one into the other."""

import re
import sys

import onnx_ir as ir
import pytest

from qcompile.passes import NORMALISE
from tests.passes.graphs import assert_rewritten

OURS = [type(p) for p in NORMALISE() if type(p).__module__.startswith("qcompile")]
EACH = pytest.mark.parametrize("kind", list(dict.fromkeys(OURS)), ids=lambda k: k.__name__)


def example(kind: type[ir.passes.InPlacePass]) -> tuple[str, str]:
    """The two texts of the module docstring."""
    text = sys.modules[kind.__module__].__doc__ or ""
    match = re.search(r"Before:\n(.*?)After:\n(.*?)^Refuses: ", text, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1], match[2]


@EACH
def test_before_becomes_after(kind: type[ir.passes.InPlacePass]) -> None:
    assert_rewritten(kind(), *example(kind))
