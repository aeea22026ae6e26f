# SPDX-License-Identifier: Apache-2.0
"""README's blocks run as they stand, in order, in a folder that holds models/."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_blocks_run_in_order(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
    }
    assert [kind for kind, _ in BLOCKS] == ["bash", "python", "python"]
    for kind, text in BLOCKS:
        command = ["bash", "-ec", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    made = sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".qc")
    assert made == ["digits-w4a8.qc", "digits.qc"]


def test_folders_of_the_map_exist() -> None:
    table = README.split("## Where things are")[1]
    named = re.findall(r"`([a-z_/]+/)`", table)
    assert len(named) >= 8
    for folder in named:
        homes = (ROOT / folder, ROOT / "qcompile" / folder, ROOT / "runtime_ops" / folder)
        assert any(home.is_dir() for home in homes), folder
