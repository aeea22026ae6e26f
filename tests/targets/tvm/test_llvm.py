# SPDX-License-Identifier: Apache-2.0
"""LLVM schedules: single layers and whole networks equal numerics, run by TVM's runtime alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.integer_graph import (
    Add,
    CodeMap,
    Conv,
    GlobalAveragePool,
    IntegerGraph,
    Lookup,
    MaxPool,
)
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import as_operand
from qcompile.numerics.requantize import Dyadic
from qcompile.targets import tvm_cpu
from qcompile.targets.tvm import llvm_build, llvm_conv, llvm_plan, run
from qcompile.targets.tvm.llvm_dot import AVX2, NARROW, PLAIN, VNNI, Dot, dot_of, is_narrow
from qcompile.targets.tvm.llvm_epilogue import Scaling
from qcompile.targets.tvm.relax_module import export
from qcompile.targets.tvm.run import Library, RunError, instructions
from qcompile.targets.tvm.toolchain import runtime_libraries
from tests.targets.tvm.nets import codes_of, conv, pair, residual_net, scale, window

HAS_AVX2 = "avx2" in llvm_build.features(llvm_build.host_target())
DOTS = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(AVX2, id="avx2", marks=pytest.mark.skipif(not HAS_AVX2, reason="no AVX2")),
]


def differences(graph: IntegerGraph, folder: Path, dot: Dot) -> int:
    """Codes of the output that differ from numerics."""
    path = folder / "net.so"
    export(llvm_build.build(graph, dot=dot).executable, path)
    codes = codes_of(np.random.default_rng(1), graph.input, graph.batch)
    kind = "int8" if graph.input.is_signed else "uint8"
    found = Library(path, runtime_libraries("cpu")).run(codes.astype(kind))
    expected = graph.run(codes)[graph.output.name]
    assert len(np.unique(expected)) > 4, "the test must see a range"
    return int((found != expected).sum())


@pytest.mark.parametrize("dot", DOTS)
@pytest.mark.parametrize(
    ("bits", "is_signed", "channels", "N"),
    [(8, False, 3, 17), (8, True, 20, 40), (4, False, 5, 16), (4, True, 16, 7), (8, False, 8, 1)],
)
def test_convolutions(
    tmp_path: Path, dot: Dot, bits: int, is_signed: bool, channels: int, N: int
) -> None:
    rng = np.random.default_rng(N)
    x = CodeMap("x", (9, 8, channels), bits, is_signed, 3)
    w = Window((3, 2), (2, 1), (1, 0, 1, 1))
    first = conv(rng, x, "first", N, w, bits=8, zero_point=5)
    last = conv(rng, x, "last", N, w, bits=bits, zero_point=1, residual=first.y, weight_bits=4)
    assert differences(IntegerGraph(x, (first, last), 2), tmp_path, dot) == 0


@pytest.mark.parametrize("is_signed", [False, True])
def test_pools_and_sums(tmp_path: Path, is_signed: bool) -> None:
    rng = np.random.default_rng(0)
    x = CodeMap("x", (7, 6, 19), 8, is_signed, 2)
    w = window(3, 1)
    top = CodeMap("top", (7, 6, 19), 8, is_signed, 2)
    total = CodeMap("total", x.shape, 4, not is_signed, 3)
    added = Add(x, top, total, pair(rng, 0.02, 0.1))
    mean = CodeMap("mean", (1, 1, 19), 8, True, 1)
    average = GlobalAveragePool(total, mean, scale(rng, 19, 0.5, 1.5))
    graph = IntegerGraph(x, (MaxPool(x, top, w), added, average), 2)
    assert differences(graph, tmp_path, PLAIN) == 0


@pytest.mark.parametrize("channels", [1, 15, 17])
@pytest.mark.parametrize(("bits", "y_bits"), [(8, 4), (4, 8)])
def test_tables(tmp_path: Path, bits: int, y_bits: int, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = CodeMap("x", (3, 5, channels), bits)
    table = rng.integers(0, 1 << y_bits, 256).astype(np.uint8)
    graph = IntegerGraph(x, (Lookup(x, CodeMap("y", x.shape, y_bits), table),), 2)
    assert differences(graph, tmp_path, PLAIN) == 0


@pytest.mark.parametrize("dot", DOTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_whole_network(tmp_path: Path, dot: Dot, bits: int) -> None:
    assert differences(residual_net(bits, batch=2), tmp_path, dot) == 0


def test_a_broken_weight_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = llvm_conv.pack_weight

    def broken(node: object, dot: Dot) -> np.ndarray:
        packed = pack(node, dot)  # type: ignore[arg-type]
        packed.flat[0] ^= 1
        return packed

    monkeypatch.setattr(llvm_conv, "pack_weight", broken)
    assert differences(residual_net(8, batch=1), tmp_path, PLAIN) > 0


SCALES = {  # multiplier, exponent, bias; whether 2^62 has room, and the type of the values
    "usual": ((1 << 30) + 12345, 45, 0, (True, "int32")),
    "one": ((1 << 31) - 1, 62, 0, (True, "int32")),
    "none": (0, 1, 0, (True, "int32")),
    "wide values": ((1 << 31) - 1, 1, 0, (True, "int64")),
    "wide sums": ((1 << 31) - 1, 62, (1 << 31) - (1 << 24), (False, "int32")),
    "wide both": ((1 << 31) - 1, 2, -(1 << 31) + (1 << 24), (True, "int64")),
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("is_signed", [False, True])
def test_every_way_to_requantize(tmp_path: Path, name: str, is_signed: bool) -> None:
    m, e, bias, expected = SCALES[name]
    rng = np.random.default_rng(0)
    x = CodeMap("x", (5, 4, 6), 8, is_signed, -7 if is_signed else 9)
    weight = rng.integers(-128, 128, (18, 3, 3, 6)).astype(np.int8)
    y = CodeMap("y", (5, 4, 18), 8, True, -3)
    dyadic = Dyadic(np.array([m], np.int32), np.array([e], np.int32))
    some = rng.integers(-999, 1000, 18)
    node = Conv(x, y, weight, (some + bias).astype(np.int32), dyadic, window(3))
    found = llvm_conv.epilogue(node)
    assert (found.is_shifted, found.kind) == expected
    codes = codes_of(rng, x, 2)
    graph = IntegerGraph(x, (node,), 2)
    export(llvm_build.build(graph, dot=PLAIN).executable, tmp_path / "net.so")
    library = Library(tmp_path / "net.so", runtime_libraries("cpu"))
    made = library.run(codes.astype("int8" if is_signed else "uint8"))
    np.testing.assert_array_equal(made, graph.run(codes)["y"])


def test_a_wrong_offset_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epilogue = llvm_conv.epilogue

    def broken(node: Conv) -> Scaling:
        found = epilogue(node)
        found.table[-1] += 1
        return found

    monkeypatch.setattr(llvm_conv, "epilogue", broken)
    assert differences(residual_net(8, batch=1), tmp_path, PLAIN) > 0


@pytest.mark.slow
@pytest.mark.parametrize("dot", DOTS)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 5), (1, 6), (7, 1), (13, 1), (3, 6), (5, 7)])
def test_tiles_that_do_not_fit(tmp_path: Path, dot: Dot, size: tuple[int, int]) -> None:
    """Rows from 1 over a tile less and more than 6 to primes; outputs likewise round 16."""
    rng = np.random.default_rng(size[0])
    x = CodeMap("x", (*size, 5), 8, False, 3)
    for N in (1, 15, 16, 17):
        node = conv(rng, x, "y", N, window(1), bits=32)
        graph = IntegerGraph(x, (node,), 1)
        path = tmp_path / f"{N}.so"  # a library of the same path would not be loaded again
        export(llvm_build.build(graph, dot=dot).executable, path)
        codes = codes_of(rng, x, 1)
        made = Library(path, runtime_libraries("cpu")).run(codes.astype(np.uint8))
        np.testing.assert_array_equal(made, graph.run(codes)["y"])


def test_the_rows_of_a_tile() -> None:
    """49 pixels are 10 tiles of 5 rows: 110 steps, where 9 of 6 are 117."""
    assert [llvm_conv.tile_rows(M, AVX2) for M in (1, 5, 7, 49, 3136)] == [1, 5, 4, 5, 6]


def narrow_conv(weights: list[int], is_signed: bool, bits: int = 8) -> Conv:
    """One output of channels with these weights."""
    x = CodeMap("x", (1, 1, len(weights)), bits, is_signed)
    weight = np.array(weights, np.int8).reshape(1, 1, 1, -1)
    y = CodeMap("y", (1, 1, 1), 32)
    one = Dyadic(*as_operand([1.0]))
    return Conv(x, y, weight, np.zeros(1, np.int32), one, weight_bits=bits)


@pytest.mark.parametrize(
    ("weights", "is_signed", "bits", "expected"),
    [
        ([64, 64], False, 8, True),  # 255 · 128 = 32640
        ([65, 64], False, 8, False),  # 255 · 129 is beyond 32767
        ([-64, -64], True, 8, True),
        ([-64, -65], True, 8, False),
        ([127, -128, 127], False, 8, True),  # of one sign no pair is too much
        ([0, 127, 127, 0], False, 8, True),
        ([0, 0, 127, 127], False, 8, False),
        ([7, 7, -8, -8], False, 4, True),
    ],
)
@pytest.mark.skipif(not HAS_AVX2, reason="no AVX2")
def test_pairs_that_fit_int16(
    tmp_path: Path, weights: list[int], is_signed: bool, bits: int, expected: bool
) -> None:
    """At the bound the instruction is exact; beyond it another one is chosen."""
    node = narrow_conv(weights, is_signed, bits)
    assert is_narrow(node) == expected
    assert (dot_of(node, AVX2) == NARROW) == expected and dot_of(node, VNNI) == VNNI
    export(llvm_build.build(IntegerGraph(node.x, (node,)), dot=AVX2).executable, tmp_path / "m.so")
    runner = Library(tmp_path / "m.so", runtime_libraries("cpu"))
    for code in node.x.range:
        codes = np.full((1, *node.x.shape), code, "int8" if is_signed else "uint8")
        np.testing.assert_array_equal(runner.run(codes), node.run(codes))


@pytest.mark.skipif(not HAS_AVX2, reason="no AVX2")
def test_a_pair_beyond_int16_would_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = narrow_conv([65, 64], is_signed=False)
    monkeypatch.setattr(llvm_plan, "dot_of", lambda *_: NARROW)
    export(llvm_build.build(IntegerGraph(node.x, (node,)), dot=AVX2).executable, tmp_path / "m.so")
    codes = np.full((1, *node.x.shape), 255, np.uint8)
    assert (
        Library(tmp_path / "m.so", runtime_libraries("cpu")).run(codes) != node.run(codes)
    ).all()


def test_vnni_is_what_a_processor_with_it_gets() -> None:
    """Such code cannot run on every machine; what it means is the intrinsic's description."""
    built = llvm_build.build(residual_net(4, batch=1), "cascadelake")
    assert built.dot == VNNI
    assert built.assembly.count("vpdpbusd") > 0
    assert "vpmaddubsw" not in built.assembly


@pytest.mark.parametrize("bits", [4, 8])
def test_the_schedule_of_vnni_by_plain_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    """The layout and loops of VNNI with its instruction replaced by what the instruction means."""
    from qcompile.targets.tvm import llvm_intrinsics

    monkeypatch.setattr(llvm_intrinsics, "dot_16x4_vnni", llvm_intrinsics.dot_16x4)
    assert differences(residual_net(bits, batch=2), tmp_path, VNNI) == 0


def test_a_library_runs_without_a_compiler(tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    graph = residual_net(8, batch=1)
    built = tvm_cpu.build(graph, path)
    dot = llvm_build.dot_for(llvm_build.features(llvm_build.host_target()))
    convs = {node.y.name: dot_of(node, dot).name for node in graph.nodes if isinstance(node, Conv)}
    for row in built.kernels:
        assert row["instruction"] == convs.get(row["node"], "loops")
    assert len(built.kernels) == len(graph.nodes)
    assert set(built.instructions) <= instructions()
    assert [p.name for p in built.runtime] == ["libtvm_ffi.so", "libtvm_runtime.so"]
    codes = codes_of(np.random.default_rng(2), graph.input, 1).astype(np.uint8)
    np.save(tmp_path / "x.npy", codes)
    program = f"""
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, {str(Path(run.__file__).parent)!r})
from run import Library
libraries = {[str(p) for p in built.runtime]!r}
y = Library(Path({str(path)!r}), libraries).run(np.load({str(tmp_path / "x.npy")!r}))
assert not {{"tvm", "tvm_ffi", "qcompile"}} & set(sys.modules)
assert "libtvm_compiler" not in Path("/proc/self/maps").read_text()
np.save({str(tmp_path / "y.npy")!r}, y)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    expected = graph.run(codes)["logits"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    tvm_cpu.build(residual_net(8, batch=1), path)
    runner = Library(path, runtime_libraries("cpu"))
    with pytest.raises(RunError, match=r"shape\[0\] mismatch"):
        runner.run(np.zeros((2, 13, 13, 3), np.uint8))
    with pytest.raises(RunError, match="codes are uint8, int8, int32, not float32"):
        runner.run(np.zeros((1, 13, 13, 3), np.float32))


def test_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='LLVM knows no processor "znver44": did you mean "znver'):
        tvm_cpu.build(residual_net(8, batch=1), tmp_path / "m.so", "znver44")


def test_this_machine_gets_nothing_that_it_lacks() -> None:
    flags = set(llvm_build.CPUINFO.read_text().split())
    has_vnni = "avx512_vnni" in flags
    assert (llvm_build.dot_for(llvm_build.features(llvm_build.host_target())) == VNNI) == has_vnni
