# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/t4.md run: Python's, and C++'s with TVM's runtime alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MISSING = "TVM is not installed: make tvm"
tvm = pytest.importorskip("tvm", reason=MISSING)
tvm_ffi = pytest.importorskip("tvm_ffi", reason=MISSING)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "t4.md").read_text(encoding="utf-8")
(PYTHON,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(CPP,) = re.findall(r"^```cpp\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(COMMAND,) = re.findall(r"^    (g\+\+ .*)$", PAGE, re.MULTILINE)
LIBRARIES = [Path(p).parent / "lib" for p in (tvm.__file__, tvm_ffi.__file__)]


def test_the_programs(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    save = '\nnp.save("codes.npy", codes)\nnp.save("expected.npy", on_cpu)\n'
    (tmp_path / "edges.py").write_text(PYTHON + save)
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "edges.py"], cwd=tmp_path, env=environment, check=True)

    (tmp_path / "run.cc").write_text(CPP)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "TVM": str(LIBRARIES[0].parent), "PATH": tools}
    subprocess.run(["sh", "-c", COMMAND], cwd=tmp_path, env=environment, check=True)
    codes = np.load(tmp_path / "codes.npy")
    found = os.pathsep.join(map(str, LIBRARIES))
    done = subprocess.run(
        [tmp_path / "run", tmp_path / "edges.so", "cpu", *map(str, codes.shape)],
        input=codes.tobytes(),
        env={"LD_LIBRARY_PATH": found},
        capture_output=True,
        check=True,
    )
    assert done.stdout == np.load(tmp_path / "expected.npy").tobytes()
