# SPDX-License-Identifier: Apache-2.0
"""A library that was compiled for another processor is refused before it runs, by every runner."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile.errors import UnsupportedError

LACKS = (
    "error: the library was compiled for processors with {}, which this one lacks: compile the "
    "model on this machine\n"
)


def test_a_processor_that_lacks_instructions(
    cpu_artifact: qcompile.Artifact, tmp_path: Path
) -> None:
    folder = shutil.copytree(cpu_artifact.folder, tmp_path / "newer")
    data = json.loads((folder / "manifest.json").read_text())
    data["content"]["network"]["instructions"] += ["amx_of_tomorrow"]
    (folder / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(UnsupportedError, match="for processors with amx_of_tomorrow, which this"):
        qcompile.load(folder, trust_library=True)
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 9, 8), np.float32))
    command = [sys.executable, "-I", folder / "run.py", tmp_path / "x.npy", tmp_path / "y.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, LACKS.format("amx_of_tomorrow"))


@pytest.mark.parametrize(
    ("cpuinfo", "missing"),
    [
        ("processor\t: 0\nflags\t\t: fpu one two three\nflags\t\t: fpu\n", ""),
        ("flags\t\t: fpu one three\nvmx flags\t: two\n", "two"),
        ("flags\t\t: onetwo thre\n", "one, two, three"),
        ("flags\t\t:\n", "one, two, three"),
        ("", "one, two, three"),
    ],
)
def test_the_cpp_runner_reads_the_processor(
    cpu_artifact: qcompile.Artifact, cpuinfo: str, missing: str, tmp_path: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    text = (cpu_artifact.folder / "network.h").read_text()
    facts = cpu_artifact.content["network"]["instructions"]
    (line,) = (line for line in text.splitlines() if "kInstructions" in line)
    assert line == f'constexpr const char* kInstructions = "{" ".join(facts)}";'
    changed = 'constexpr const char* kInstructions = "one two three";'
    (tmp_path / "network.h").write_text(text.replace(line, changed))
    shutil.copyfile(cpu_artifact.folder / "run.cc", tmp_path / "run.cc")
    program = """
#define NETWORK_NO_MAIN
#include "run.cc"
int main(int, char** argv) try {
  network::check_processor(argv[1]);
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << "\\n";
  return 2;
}
"""
    (tmp_path / "check.cc").write_text(program)
    build = ["g++", "-std=c++17", "-Wall", "-Werror", "check.cc", "-ldl", "-o", "check"]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["./check", "cpuinfo"], cwd=tmp_path, capture_output=True, text=True)
    expected = (2, LACKS.format(missing)) if missing else (0, "")
    assert (done.returncode, done.stderr) == expected


def test_the_cpp_runner_refuses_a_processor(
    cpu_artifact: qcompile.Artifact, tmp_path: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = shutil.copytree(cpu_artifact.folder, tmp_path / "newer")
    text = (folder / "network.h").read_text()
    changed = text.replace('kInstructions = "', 'kInstructions = "amx_of_tomorrow ')
    (folder / "network.h").write_text(changed)
    subprocess.run(["g++", "-std=c++17", "run.cc", "-ldl", "-o", "run"], cwd=folder, check=True)
    np.zeros((1, 3, 9, 8), np.float32).tofile(tmp_path / "x.f32")
    command = [folder / "run", tmp_path / "x.f32", tmp_path / "y.f32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, LACKS.format("amx_of_tomorrow"))
    assert not (tmp_path / "y.f32").exists()
