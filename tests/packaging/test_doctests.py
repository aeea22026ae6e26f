# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings are true. Modules load as qcompile.*, as a user loads them."""

import doctest
import importlib

import pytest

from tests.packaging.source_tree import modules


@pytest.mark.parametrize("name", sorted(n for n in modules() if not n.endswith(".__main__")))
def test_doctests(name: str) -> None:
    if name.startswith("qcompile.targets.tvm."):
        pytest.importorskip("tvm")
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, "the examples above give something else"
