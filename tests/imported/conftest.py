# SPDX-License-Identifier: Apache-2.0
"""The pipeline tests measure speed for an instant only."""

import pytest

from qcompile import measure


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
