# SPDX-License-Identifier: Apache-2.0
"""README's C++ program runs an artifact with ONNX Runtime's own library and headers."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import qcompile
from models import digits
from tests.runtime_ops.official_headers import fetch_headers

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"^```cpp\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
(COMMAND,) = re.findall(r"^    (g\+\+ .*)$", README, re.MULTILINE)


def built(folder: Path, include: Path) -> Path:
    """The program, by README's command, against the wheel's library."""
    (folder / "digits.cc").write_text(PROGRAM)
    (folder / "onnxruntime/lib").mkdir(parents=True)
    (folder / "onnxruntime/include").symlink_to(include)
    capi = Path(onnxruntime.__file__).parent / "capi"
    library = next(capi.glob("libonnxruntime.so.*"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "onnxruntime/lib" / name).symlink_to(library)
    subprocess.run(COMMAND.split(), cwd=folder, check=True)
    return folder / "digits"


@pytest.mark.slow
def test_the_program_gives_the_numbers_of_python(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    program = built(tmp_path, fetch_headers(tmp_path / "apt"))
    images, _ = digits.data("calibration")
    artifact = qcompile.compile(
        digits.path(),
        output=tmp_path / "digits.qc",
        recipe=qcompile.Recipe(preset="w4a8"),
        calibration_data={"image": images[:64]},
    )
    session = qcompile.load(artifact.folder)
    for image in images[:3]:
        done = subprocess.run(
            [program, artifact.folder],
            input=" ".join(f"{v:.9g}" for v in image.ravel()),
            env={"LD_LIBRARY_PATH": str(tmp_path / "onnxruntime/lib")},
            capture_output=True,
            text=True,
            check=True,
        )
        found = np.array(done.stdout.split(), np.float32)
        # Nine digits say a float32 exactly.
        np.testing.assert_array_equal(found, session.run(None, {"image": image[None]})[0][0])
