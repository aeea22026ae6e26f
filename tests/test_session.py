# SPDX-License-Identifier: Apache-2.0
"""What every session of ONNX Runtime is told."""

import pytest

import qcompile.session as session


@pytest.mark.parametrize("has_vnni", [True, False])
def test_exact_integers_are_asked_for_where_they_would_saturate(
    has_vnni: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_has_vnni", lambda: has_vnni)
    options, entry = session.session_options(1), "session.x64quantprecision"
    if has_vnni:
        with pytest.raises(RuntimeError, match="does not have configuration"):
            options.get_session_config_entry(entry)
        return
    assert options.get_session_config_entry(entry) == "1"
