# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's official headers, which its wheel leaves out, from a Debian package."""

import shutil
import subprocess
from pathlib import Path

import pytest


def fetch_headers(folder: Path) -> Path:
    """The headers of Debian trixie's libonnxruntime-dev, unpacked; skips where apt cannot."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("the official header comes from a Debian package, and apt is not here")
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    line = f"deb [signed-by={keyring}] http://deb.debian.org/debian trixie main\n"
    (folder / "sources.list").write_text(line)
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "APT::Sandbox::User": "root",
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": 20,
    }
    apt = ["apt-get", "-q", *(f"-o{k}={v}" for k, v in options.items())]
    for command in (["update"], ["download", "libonnxruntime-dev"]):
        done = subprocess.run(
            [*apt, *command], cwd=folder, capture_output=True, text=True, check=False
        )
        packages = list(folder.glob("*.deb"))
        if done.returncode and not packages:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"the official headers cannot be fetched: apt: {why}")
    subprocess.run(["dpkg", "-x", str(packages[0]), str(folder / "x")], check=True)
    found = next((folder / "x").rglob("onnxruntime_c_api.h"), None)
    assert found is not None
    return found.parent
