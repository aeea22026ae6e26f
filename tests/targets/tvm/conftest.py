# SPDX-License-Identifier: Apache-2.0
"""The tests of this folder need TVM, which CONTRIBUTING.md says how to get."""

import pytest

pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
