# SPDX-License-Identifier: Apache-2.0
"""An emulated arm64 machine that runs ONNX models with the op library."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

HERE = Path(__file__).parent
PLACE = Path(os.environ.get("QC_ARM64", HERE.parents[1] / "build" / "arm64"))
# Processors that qemu knows → the instruction set that the library has to choose on them.
PROCESSORS = {"cortex-a53": "scalar", "cortex-a76": "dotprod", "max": "i8mm"}


def is_ready() -> bool:
    """Whether prepare.sh has made the machine."""
    return (PLACE / "library/runtime_ops/libqcompile_ops.so").is_file()


class Machine:
    """One qemu process; `run` is a session of the model there."""

    def __init__(self, processor: str, isa: str | None = None) -> None:
        library = str(PLACE / "library/runtime_ops/libqcompile_ops.so")
        environment = {**os.environ, "PYTHONPATH": str(PLACE / "site"), "PYTHONNOUSERSITE": "1"}
        environment.pop("QCOMPILE_ISA", None)
        environment.pop("LD_LIBRARY_PATH", None)
        if isa is not None:
            environment["QCOMPILE_ISA"] = isa
        self._process = subprocess.Popen(
            [
                *("qemu-aarch64-static", "-cpu", processor, "-L", str(PLACE / "root")),
                *(str(PLACE / "root/usr/bin/python3.11"), str(HERE / "serve.py"), library),
            ],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, model: onnx.ModelProto, feed: dict[str, NDArray]) -> list[NDArray]:
        """The model's outputs; RuntimeError with what ONNX Runtime said."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(model.SerializeToString())
            return self.run_folder(folder, feed)

    def run_folder(self, folder: Path, feed: dict[str, NDArray]) -> list[NDArray]:
        """The same for a folder that holds model.onnx and its data."""
        np.savez(folder / "inputs.npz", **dict[str, Any](feed))
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"the emulator ended: {self._process.wait()}")
        if (folder / "error.txt").is_file():
            raise RuntimeError((folder / "error.txt").read_text())
        with np.load(folder / "outputs.npz") as found:
            return [found[f"output_{i}"] for i in range(len(found))]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
