# SPDX-License-Identifier: Apache-2.0
"""Budgets, and what a compilation of a large model really takes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.large_model import MEDIUM, SMALL, write_model
from benchmarks.memory import anonymous_bytes
from qcompile import Limits, Recipe, compile
from qcompile.errors import InputError
from qcompile.memory import (
    BASE_BYTES,
    Budget,
    in_threads,
    parse_size,
    return_freed,
    row_slices,
)
from tests.pipeline.nets import Net


@pytest.mark.parametrize("text", ["", "4 apples", "-1GB", "GB", "1.2.3MB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="write for example 4GB"):
        parse_size(text)


def test_slices_cover_all_rows_once() -> None:
    rows = [i for part in row_slices(1000, 5000) for i in range(part.start, part.stop)]
    assert rows == list(range(1000))
    assert in_threads(lambda part: part.start, row_slices(1000, 5000)) == [
        part.start for part in row_slices(1000, 5000)
    ]


def test_a_budget_below_the_largest_tensor_names_it(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", SMALL)
    largest = 4 * 128 * 500
    limits = Limits(max_memory=BASE_BYTES + largest - 1)
    with pytest.raises(InputError, match=r'largest tensor "(embedding|head).*" takes 0 MB'):
        compile(path, output=tmp_path / "o.qc", recipe=Recipe(preset="w4a16"), limits=limits)
    assert not (tmp_path / "o.qc").exists()
    model = ir.load(path)
    Budget(BASE_BYTES + largest).check(model)


def test_the_made_up_model_has_the_size_it_says(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", SMALL)
    assert path.with_name("m.onnx.data").stat().st_size >= SMALL.bytes
    weights = ir.load(path).graph.initializers
    assert np.std(weights["head"].const_value.numpy()) == pytest.approx(128**-0.5, rel=0.01)


def test_freed_pages_go_back() -> None:
    """Arrays in pieces too small to be mapped; the last one, which lives, keeps all before it."""
    arrays = [np.ones(12_000) for _ in range(1000)]
    held = anonymous_bytes(os.getpid())
    del arrays[:-1]
    assert anonymous_bytes(os.getpid()) > held - 20e6
    return_freed()
    assert anonymous_bytes(os.getpid()) < held - 80e6


def peak_of(arguments: list[str]) -> int:
    """The most RssAnon of a Python that ends well."""
    process = subprocess.Popen([sys.executable, *arguments])
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, anonymous_bytes(process.pid))
        except (OSError, StopIteration):  # it ends just now
            continue
        time.sleep(0.02)
    assert process.returncode == 0
    return peak


def convolutions(folder: Path) -> list[str]:
    """Arguments that compile a CNN whose maps of 16 samples take over 0.5 GB."""
    net = Net()
    x = net.input("x", ["batch", 3, 160, 160])
    x = net.node("Relu", [net.conv(x, 32, 3, "first")], "first_relu")
    x = net.node("Relu", [net.conv(x, 32, 32, "second")], "second_relu")
    x = net.node("Relu", [net.conv(x, 32, 32, "third")], "third_relu")
    net.node("GlobalAveragePool", [x], "y")
    net.output("y", ["batch", 32, 1, 1])
    data = np.random.default_rng(0).standard_normal((16, 3, 160, 160)).astype(np.float32)
    np.savez(folder / "data.npz", allow_pickle=False, x=data)
    path = net.save(folder / "m.onnx")
    return [
        *("-m", "qcompile.cli", "compile", str(path), "--preset", "w8a8", "--quiet", "--force"),
        *("--calibration-data", str(folder / "data.npz")),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_a_limit_is_kept_with_calibration_data(rounding: str, tmp_path: Path) -> None:
    arguments = [*convolutions(tmp_path), "--weight-rounding", rounding]
    limit = 450 * 10**6
    assert peak_of([*arguments, "--max-memory", "450MB"]) < limit
    assert peak_of(arguments) > limit  # twin: without it, it takes more


@pytest.mark.slow
def test_a_large_model_is_compiled_in_little_memory(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", MEDIUM)
    arguments = ["-m", "qcompile.cli", "compile", str(path), "--preset", "w4a16", "--quiet"]
    peak = peak_of(arguments)
    largest = 4 * MEDIUM.vocabulary * MEDIUM.hidden
    assert peak < BASE_BYTES + 2 * largest < MEDIUM.bytes
