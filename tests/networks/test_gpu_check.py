# SPDX-License-Identifier: Apache-2.0
"""The bundle for a machine with a GPU: its script finds every kernel right, or what is wrong.

The driver is the emulator's here; the calls of libcuda.so.1 need a GPU.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import qcompile
from tests.networks.nets import shortcut
from tests.pipeline.nets import samples

pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc"),
    pytest.mark.xdist_group("gpu_check"),  # which shares what it compiled
]

from benchmarks import gpu_check  # noqa: E402
from benchmarks.t4_bundle import write_bundle  # noqa: E402
from qcompile.targets.tvm.cuda_emulator import KERNEL, PARAMETER, Emulator, Launch  # noqa: E402


class EmulatedDriver:
    """What `Driver` does, on arrays of the CPU; every launch is counted."""

    def __init__(self, source: str) -> None:
        self.emulator, self.count = Emulator(source), 0
        self.names = {m[2]: PARAMETER.findall(m[3]) for m in KERNEL.finditer(source)}

    def put(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C")

    def get(self, pointer: np.ndarray, shape: Sequence[int], kind: str) -> np.ndarray:
        assert list(pointer.shape) == list(shape) and pointer.dtype == kind
        return pointer.copy()

    def free(self, pointer: np.ndarray) -> None:
        pass

    def launch(
        self, kernel: str, grid: Sequence[int], threads: int, pointers: Sequence[np.ndarray]
    ) -> None:
        self.count += 1
        names = [name.removesuffix("_ptr") for _, name in self.names[kernel]]
        named = dict(zip(names, pointers, strict=True))
        self.emulator.run(kernel, Launch(tuple(grid), threads), named)  # type: ignore[arg-type]

    def seconds(self, work: Callable[[], None]) -> float:
        work()
        return 1.0


@pytest.fixture(scope="module", params=["w4a4", pytest.param("w8a8", marks=pytest.mark.slow)])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, net = tmp_path_factory.mktemp("bundle"), shortcut()
    recipe = qcompile.Recipe(preset=request.param, batch=2)
    model, data = net.save(folder / "net.onnx"), samples(net, 16)
    made = qcompile.compile(model, "t4", recipe=recipe, calibration_data=data)
    return write_bundle(made.folder, folder / "out")


@pytest.fixture(autouse=True)
def one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "LAUNCHES", 1)
    monkeypatch.setattr(gpu_check, "ROUNDS", 1)


def driver_of(bundle: Path) -> EmulatedDriver:
    return EmulatedDriver((bundle / "artifact" / "network.cu").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_kernel_and_the_whole_network_are_right(bundle: Path) -> None:
    held, driver = gpu_check.Bundle(bundle), driver_of(bundle)
    rows = gpu_check.check_kernels(held, driver)
    assert [row["kernel"] for row in rows] == [step["kernel"] for step in held.steps]
    assert {row["wrong"] for row in rows} == {0}
    assert driver.count == 3 * len(rows)
    assert gpu_check.check_whole(held, driver)["wrong"] == 0


@pytest.mark.slow
def test_a_wrong_integer_is_seen(bundle: Path) -> None:
    held, driver = gpu_check.Bundle(bundle), driver_of(bundle)
    name = next(n for n in held.arrays if n.endswith(" weight"))
    held.arrays[name] = held.arrays[name] ^ np.int32(1)
    wrong = [row["wrong"] > 0 for row in gpu_check.check_kernels(held, driver)]
    assert sum(wrong) == 1
    assert gpu_check.check_whole(held, driver)["wrong"] > 0


def test_inputs_reach_both_ends(bundle: Path) -> None:
    facts = qcompile.Artifact.read(bundle / "artifact").content["network"]["input"]
    held = gpu_check.Bundle(bundle)
    (name,) = set(held.steps[0]["parameters"]) - {held.steps[0]["output"]}
    codes = held.arrays[name]
    assert [codes.min(), codes.max()] == facts["limits"]


def test_the_report_names_every_kernel(bundle: Path) -> None:
    held = gpu_check.Bundle(bundle)
    rows = gpu_check.check_kernels(held, driver_of(bundle))
    peers = {rows[1]["kernel"]: {"cublas_int8": 2.0}}
    facts = {"gpu": "a GPU", "capability": "7.5", "driver": 13000, "kernels": rows, "peers": peers}
    whole = {"wrong": 0, "microseconds": 1.0}
    text = gpu_check.report(facts | {"whole": whole, "library_wrong": 0})
    assert all(row["kernel"] in text for row in rows)
    assert "cublas_int8 2.0 µs" in text and "TOP/s" in text


def test_without_a_gpu_one_line_says_so(bundle: Path) -> None:
    command = [sys.executable, "-S", str(bundle / "gpu_check.py")]
    site = str(Path(np.__file__).parents[1])
    run = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": site})
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: there is no libcuda.so.1: install NVIDIA's driver\n"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(gpu_check.CheckError, match="is no bundle"):
        gpu_check.Bundle(tmp_path)
    (tmp_path / "kernels.json").write_text(json.dumps({}))
    with pytest.raises(gpu_check.CheckError, match="is no bundle"):
        gpu_check.Bundle(tmp_path)
