# SPDX-License-Identifier: Apache-2.0
"""Random networks of the operators that libraries take: the integers of target cpu, all equal."""

from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile.targets import t4, tvm_cpu
from qcompile.targets.tvm.run import Library
from qcompile.to_integer_graph import to_integer_graph
from tests.networks.test_to_integer_graph import results
from tests.pipeline.nets import Net, samples

PRESETS = ("w8a8", "w4a4", "w4a8", "w3a5")


class Builder:
    """A net that grows by random operators; the map is [C, H, W]."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net(seed=seed)
        self.shape = [int(v) for v in self.rng.integers((1, 4, 4), (9, 12, 12))]
        self.value = self.net.input("x", ["batch", *self.shape])
        self.count = 0

    def name(self, word: str) -> str:
        self.count += 1
        return f"{word}{self.count}"

    def conv(self, x: str, n: int, kernel: tuple[int, int], **attributes: object) -> str:
        name = self.name("conv")
        weight = self.net.weight(f"{name}.weight", n, self.shape[0], *kernel)
        bias = self.net.weight(f"{name}.bias", n)
        return self.net.node("Conv", [x, weight, bias], name, **attributes)

    def grow_conv(self) -> None:
        kernel = tuple(int(v) for v in self.rng.integers(1, 4, 2))
        strides = [int(v) for v in self.rng.integers(1, 3, 2)]
        pads = [int(self.rng.integers(0, k)) for k in (*kernel, *kernel)]
        room = [s + pads[i] + pads[i + 2] - kernel[i] for i, s in enumerate(self.shape[1:])]
        if min(room) < 0:
            return
        n = int(self.rng.integers(1, 20))
        self.value = self.conv(self.value, n, kernel, strides=strides, pads=pads)
        self.shape = [n, *(r // s + 1 for r, s in zip(room, strides, strict=True))]
        self.activate()

    def grow_sum(self) -> None:
        n = self.shape[0]
        y = self.conv(self.value, n, (3, 3), pads=[1] * 4)
        if self.rng.random() < 0.5:
            y = self.net.node("Relu", [y], self.name("relu"))
            y = self.conv(y, n, (1, 1))
        pair = [self.value, y] if self.rng.random() < 0.5 else [y, self.value]
        op = "Add" if self.rng.random() < 0.7 else "Sub"
        self.value = self.net.node(op, pair, self.name("sum"))
        self.activate()

    def grow_maximum(self) -> None:
        if min(self.shape[1:]) >= 3:
            name = self.name("top")
            self.value = self.net.node(
                "MaxPool", [self.value], name, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
            )
            self.shape[1:] = [(s - 1) // 2 + 1 for s in self.shape[1:]]

    def grow_cut(self) -> None:
        if min(self.shape[1:]) < 2:
            return
        name = self.name("cut")
        arrays = ("starts", [0, 1]), ("ends", [99, 99]), ("axes", [2, 3]), ("steps", [2, 1])
        cut = [self.net.array(f"{name}.{n}", np.array(v, np.int64)) for n, v in arrays]
        self.value = self.net.node("Slice", [self.value, *cut], name)
        pads = self.net.array(f"{name}.pads", np.array([0, 1, 0, 0, 0, 2, 1, 0], np.int64))
        self.value = self.net.node("Pad", [self.value, pads], self.name("pad"))
        _, height, width = self.shape
        self.shape = [self.shape[0] + 3, (height + 1) // 2 + 1, width - 1]

    def activate(self) -> None:
        draw = self.rng.random()
        if draw < 0.6:
            self.value = self.net.node("Relu", [self.value], self.name("relu"))
        elif draw < 0.7:
            low, high = (self.net.array(self.name("bound"), np.float32(v)) for v in (0, 1.5))
            self.value = self.net.node("Clip", [self.value, low, high], self.name("clip"))

    def finish(self) -> Net:
        if self.rng.random() < 0.5:
            self.value = self.net.node("GlobalAveragePool", [self.value], self.name("mean"))
            self.shape[1:] = [1, 1]
        row = self.net.node("Flatten", [self.value], self.name("row"))
        k = int(np.prod(self.shape))
        head = [self.net.weight("head", k, 4), self.net.weight("head_bias", 4)]
        self.net.node("Gemm", [row, *head], "y")
        self.net.output("y", ["batch", 4])
        return self.net


def network(seed: int) -> Net:
    built = Builder(seed)
    built.grow_conv()
    growths = [built.grow_conv, built.grow_sum, built.grow_maximum, built.grow_cut]
    for choice in built.rng.integers(0, len(growths), built.rng.integers(1, 6)):
        growths[choice]()
    return built.finish()


def differing(seed: int, folder: Path) -> tuple[int, int]:
    """Outputs that differ from target cpu's, of how many."""
    net = network(seed)
    recipe = qcompile.Recipe(
        preset=PRESETS[seed % len(PRESETS)], integer_only=True, weight_rounding="nearest"
    )
    artifact = qcompile.compile(
        net.save(folder / "net.onnx"), recipe=recipe, calibration_data=samples(net, 8)
    )
    made = to_integer_graph(artifact.model(), "t4", 1)
    x = samples(net, 6, seed=5)["x"] * 1.4
    expected = qcompile.load(artifact.folder).run(None, {"x": x})[0]
    return int((results(made, made.graph, x) != expected).sum()), expected.size


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    assert differing(seed, tmp_path) == (0, 24)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8, 60))
def test_more_random_networks(seed: int, tmp_path: Path) -> None:
    assert differing(seed, tmp_path) == (0, 24)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 72))
def test_kernels_of_random_networks(seed: int, tmp_path: Path) -> None:
    """LLVM's and, lane by lane, CUDA's: every map of the network."""
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    net = network(seed)
    recipe = qcompile.Recipe(
        preset=PRESETS[seed % len(PRESETS)], integer_only=True, weight_rounding="nearest"
    )
    artifact = qcompile.compile(
        net.save(tmp_path / "net.onnx"), recipe=recipe, calibration_data=samples(net, 8)
    )
    graph = to_integer_graph(artifact.model(), "t4", 2).graph
    low, high = graph.input.range
    codes = np.random.default_rng(seed).integers(low, high + 1, (2, *graph.input.shape))
    values = graph.run(codes)
    built = tvm_cpu.build(graph, tmp_path / "net.so")
    found = Library(tmp_path / "net.so", built.runtime).run(codes.astype(np.uint8))
    np.testing.assert_array_equal(found, values[graph.output.name])
    emulated = t4.emulate(graph)
    for kernel in emulated.each(values):
        np.testing.assert_array_equal(kernel.found, kernel.expected, kernel.name)
