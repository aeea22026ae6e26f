# SPDX-License-Identifier: Apache-2.0
"""The tools of benchmarks.peers and the environment of each."""

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {
    "ort": "onnxruntime",
    "nncf": "nncf",
    "quark": "amd-quark",
    "aimet": "aimet-onnx",
    "onnxsim": "onnxsim",
    "qcompile": "qcompile",
}
# What an environment holds besides; this one has those of ONNX Runtime and qcompile.
NEEDS = {
    "nncf": ("onnx", "onnxruntime", "openvino"),
    "quark": ("torch", "onnx", "onnxruntime"),
    "aimet": ("torch", "onnx", "onnxruntime"),
    "onnxsim": ("onnx", "onnxruntime"),
}


def installed(tool: str, python: str) -> str | None:
    """The version of a tool in the environment of an interpreter."""
    code = f"import importlib.metadata as m; print(m.version({PACKAGES[tool]!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def interpreters(environments: Path | None, chosen: list[str]) -> dict[str, str]:
    """Tool → its interpreter: that of FOLDER/tool, this one where there is none."""
    if unknown := sorted({*chosen} - {*PACKAGES}):
        raise SystemExit(f"unknown tools {', '.join(unknown)}: there are {', '.join(PACKAGES)}")
    found = {tool: sys.executable for tool in PACKAGES if tool in chosen}
    if environments is not None:
        own = {tool: environments.absolute() / tool / "bin" / "python" for tool in found}
        found |= {tool: str(python) for tool, python in own.items() if python.exists()}
    return found


def install(environments: Path, chosen: list[str]) -> None:
    """An environment for each tool that has none; some gigabytes where torch is needed."""
    for tool in NEEDS:
        python = environments / tool / "bin" / "python"
        if tool not in chosen or python.exists():
            continue
        venv.create(environments / tool, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", PACKAGES[tool], *NEEDS[tool]]
        subprocess.run(command, check=True)
