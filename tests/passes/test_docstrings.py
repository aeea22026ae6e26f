# SPDX-License-Identifier: Apache-2.0
"""The Before and After of the normalise passes are ONNX text: the pass turns one into the other."""

import re
import sys

import onnx_ir as ir
import pytest

from qcompile.passes import NORMALISE
from tests.passes.graphs import assert_equal_outputs, assert_same, parse

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
    before, after = example(kind)
    model = parse(before)
    assert kind()(model).modified
    assert_same(model, parse(after))


@EACH
def test_before_computes_what_after_computes(kind: type[ir.passes.InPlacePass]) -> None:
    before, after = example(kind)
    assert_equal_outputs(parse(before), parse(after))
