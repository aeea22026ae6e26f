# SPDX-License-Identifier: Apache-2.0
"""What nvcc makes for sm_75: instructions, no spills, machine code and PTX in one library."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qcompile.errors import UnsupportedError
from qcompile.integer_graph import CodeMap, Conv, IntegerGraph
from qcompile.numerics.dyadic import as_operand
from qcompile.numerics.requantize import Dyadic
from qcompile.targets import t4
from qcompile.targets.tvm.cuda_build import launch_of
from qcompile.targets.tvm.cuda_plan import plan
from qcompile.targets.tvm.run import Library, RunError
from qcompile.targets.tvm.toolchain import runtime_libraries
from tests.targets.tvm.nets import conv, residual_net, window
from tests.targets.tvm.resnets import resnet

NEEDS_NVCC = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
PTX, MACHINE_CODE = 1, 2
FATBIN_MAGIC = 0xBA55ED50
INT8 = "mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32"
INT4 = "mma.sync.aligned.m8n8k32.row.col.s32.u4.s4.s32"


def fatbin_entries(data: bytes) -> list[tuple[int, int]]:
    """Kind and architecture of every entry of the fatbins in a file."""
    entries = []
    for match in re.finditer(re.escape(struct.pack("<I", FATBIN_MAGIC)), data):
        _, header, size = struct.unpack_from("<HHQ", data, match.start() + 4)
        at, end = match.start() + header, match.start() + header + size
        while at < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, at)
            (arch,) = struct.unpack_from("<I", data, at + 28)
            entries.append((kind, arch))
            at += entry_header + entry_size
    return entries


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    path = tmp_path_factory.mktemp("t4") / "net.so"
    return path, list(t4.build(residual_net(4, batch=2), path).kernels)


@NEEDS_NVCC
def test_every_kernel_is_reported_without_spills(built: tuple[Path, list[dict]]) -> None:
    rows = {row["name"]: row for row in built[1]}
    assert len(rows) == 10
    assert all(row["spill_bytes"] == 0 for row in rows.values())
    assert all(0 < row["registers"] <= 255 and 0 < row["occupancy"] <= 1 for row in rows.values())
    assert rows["conv_0"]["instruction"] == INT8
    assert rows["conv_2"]["instruction"] == INT4
    assert rows["conv_8"]["instruction"] == "dp4a.s32.s32"
    assert rows["maxpool_1"]["instruction"] == rows["pack_input"]["instruction"] == ""
    assert rows["pack_input"]["roofline_seconds"] is None
    assert rows["conv_2"]["bound"] in ("compute", "memory")
    assert rows["conv_3"]["node"] == "block"


@NEEDS_NVCC
def test_ptx_holds_the_instructions_that_the_source_asks_for(
    built: tuple[Path, list[dict]],
) -> None:
    text = built[0].with_suffix(".ptx").read_text()
    assert ".target sm_75" in text
    found = set(re.findall(r"(?:mma\.sync|dp4a)[\w.]*", text))
    assert found == {INT8, INT4, "dp4a.s32.s32"}


@NEEDS_NVCC
def test_the_library_holds_machine_code_and_ptx(built: tuple[Path, list[dict]]) -> None:
    data = built[0].read_bytes()
    assert sorted(fatbin_entries(data)) == [(PTX, 75), (MACHINE_CODE, 75)]
    assert b"__CUDACC_RTC__" not in data, "source would need nvcc where the library runs"


@NEEDS_NVCC
def test_a_machine_without_a_gpu_says_what_is_missing(
    built: tuple[Path, list[dict]],
) -> None:
    """Asked in another process: this one holds the stand-in of the driver."""
    program = f"""
from pathlib import Path
from qcompile.targets.tvm.run import Library, RunError
from qcompile.targets.tvm.toolchain import runtime_libraries
try:
    Library(Path({str(built[0])!r}), runtime_libraries("cuda"), "cuda")
    print("runs")
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "runs" or "libtvm_runtime_cuda.so is part of" in done.stdout


@NEEDS_NVCC
@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_layers_of_resnet_50_do_not_spill(tmp_path: Path, bits: int) -> None:
    """One layer of every shape class at batch 8, with the tile that the model chooses."""
    rng = np.random.default_rng(0)
    layers = [(56, 64, 64, 3, 1), (56, 256, 64, 1, 1), (56, 256, 128, 1, 2), (14, 256, 256, 3, 1)]
    layers += [(7, 512, 2048, 1, 1), (7, 512, 512, 3, 1)]
    for size, C, N, kernel, stride in layers:
        x = CodeMap("x", (size, size, C), bits)
        node = conv(rng, x, "y", N, window(kernel, stride), bits=bits)
        built = t4.build(IntegerGraph(x, (node,), 8), tmp_path / f"{size}-{C}-{N}.so")
        (row,) = (row for row in built.kernels if row["name"] == "conv_0")
        assert row["spill_bytes"] == 0
        assert row["instruction"] == (INT4 if bits == 4 else INT8)


MOST_CPU_SECONDS = 300
CODE_BYTES = 48 << 10  # of a kernel, as machine code and as PTX; measured: 37 to 39 kB


@NEEDS_NVCC
@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("depth", [18, 50])
def test_whole_networks(tmp_path: Path, depth: int, bits: int) -> None:
    """In five minutes of CPU time, without a spill, and as many bytes as constants and code."""
    graph, path, begun = resnet(depth, 8, bits), tmp_path / "net.so", os.times()
    rows = t4.build(graph, path).kernels
    assert sum(os.times()[:4]) - sum(begun[:4]) < MOST_CPU_SECONDS
    assert all(row["spill_bytes"] == 0 for row in rows)
    inner = INT4 if bits == 4 else INT8
    instructions = [row["instruction"] for row in rows if row["name"].startswith("conv_")]
    assert instructions[0] == INT8 and set(instructions[1:-1]) == {inner}
    arrays = [a for step in plan(graph).steps for _, a in step.arguments]
    held = sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
    assert held <= path.stat().st_size <= held + len(rows) * CODE_BYTES


@pytest.mark.parametrize("bits", [8, 4])
def test_four_bits_are_half_a_byte(bits: int) -> None:
    """The weights of ResNet-18: what lies in the library, with the padding of the last tiles."""
    for step in plan(resnet(18, 8, bits)).steps:
        if not isinstance(step.node, Conv):
            continue
        (packed,) = (a for name, a in step.arguments if name == "weight")
        stored = step.node.weight.size * step.node.x.bits // 8
        assert isinstance(packed, np.ndarray)
        # beyond 64 channels no tile is padded; the first layer has 3 channels of 4 in a word
        wide = step.node.x.shape[2] >= 64 and step.node.y.bits != 32
        assert packed.nbytes == stored if wide else stored <= packed.nbytes <= 2.2 * stored


def test_launches_are_those_of_the_functions() -> None:
    made = plan(residual_net(8, batch=2))
    for step in made.steps:
        launch = launch_of(step.function)
        assert launch.threads % 32 == 0
        assert min(launch.grid) >= 1
    pack = next(step for step in made.steps if step.name == "pack_input")
    assert launch_of(pack.function).grid == (-(-2 * 13 * 13 // 128), 1, 1)


def test_without_nvcc_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(UnsupportedError, match=r"target t4 needs nvcc of CUDA 13.*needs no GPU"):
        t4.build(residual_net(8, batch=1), tmp_path / "m.so")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.so"):
        Library(tmp_path / "none.so", runtime_libraries("cpu"))


def test_one_weight_more_is_one_product_more() -> None:
    """num_products, from which the roofline is computed, counts padding taps too."""
    x = CodeMap("x", (4, 4, 2))
    weight = np.ones((3, 3, 3, 2), np.int8)
    y = CodeMap("y", (4, 4, 3), 32)
    node = Conv(x, y, weight, np.zeros(3, np.int32), Dyadic(*as_operand([1.0])), window(3))
    assert node.num_products == 4 * 4 * 3 * 3 * 3 * 2
