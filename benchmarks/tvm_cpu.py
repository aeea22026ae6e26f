# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 on a CPU: target tvm-cpu against ONNX Runtime in float32.

    python -m benchmarks.tvm_cpu [--threads N] [--rounds N] [--size 224]
        [--bits 8] [--weight-bits BITS]

Both have the architecture of models/zoo/resnet50.py, batch 1, random weights and inputs. They run
in turns in one process. Figures are the least of all rounds, of the clock and of the CPU time of
the process: on a shared machine the second is what can be compared, with one thread.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from models.zoo import resnet50


def main() -> None:
    """Print both times, their ratio, and what the processor can."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=resnet50.FULL.image)
    parser.add_argument("--bits", type=int, default=8, choices=(4, 8), help="of the activations")
    parser.add_argument("--weight-bits", type=int, help="as the activations")
    parser.add_argument("--library", type=Path, help="keep it, or read it where it exists")
    arguments = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(arguments.threads)  # read when TVM's runtime is loaded
    with tempfile.TemporaryDirectory() as folder:
        library = arguments.library or Path(folder, "resnet50.so")
        weight_bits = arguments.weight_bits or arguments.bits
        dot = _built(library, arguments.size, arguments.bits, weight_bits)
        times = _measured(library, arguments.threads, arguments.rounds, arguments.size)
    print(f"ResNet-50 at {arguments.size}², batch 1, {arguments.threads} threads, {dot}")
    for name, clock in (("clock", 0), ("CPU", 1)):
        ours, theirs = (1000 * min(row[clock] for row in rows) for rows in times)
        print(
            f"{name:5} ms: ONNX Runtime float32 {theirs:.1f}, tvm-cpu "
            f"W{weight_bits}A{arguments.bits} {ours:.1f}: {theirs / ours:.2f} times faster"
        )


def _built(library: Path, size: int, bits: int, weight_bits: int) -> str:
    """The library, and the dot product that its kernels use."""
    from qcompile.targets import tvm_cpu
    from qcompile.targets.tvm import llvm_build
    from tests.targets.tvm.resnets import DEPTHS, resnet

    if library.exists():
        return llvm_build.dot_for(llvm_build.features(llvm_build.host_target())).name
    assert DEPTHS[50] == resnet50.FULL.depths
    begun = time.process_time()
    graph = resnet(50, 1, bits, size, resnet50.FULL.stem, weight_bits)
    built = tvm_cpu.build(graph, library)
    print(f"built in {time.process_time() - begun:.0f} s of CPU time")
    return str(built.kernels[0]["instruction"])


def _measured(
    library: Path, threads: int, rounds: int, size: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds of ours and of ONNX Runtime's runs, in turns: of the clock, and of CPU time."""
    from qcompile.session import open_model, session_options
    from qcompile.targets.tvm.run import Library
    from qcompile.targets.tvm.toolchain import runtime_libraries

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (1, size, size, 3)).astype(np.uint8)
    image = rng.standard_normal((1, 3, size, size)).astype(np.float32)
    runner = Library(library, runtime_libraries("cpu"))
    session = open_model(resnet50.build(), session_options(threads))
    runs = (lambda: runner.run(codes), lambda: session.run(None, {"image": image}))
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for run in runs:
        run()
    for _ in range(rounds):
        for run, row in zip(runs, times, strict=True):
            time.sleep(0.02)  # the other's threads stop waiting actively
            run()
            clock, used = time.perf_counter(), time.process_time()
            run()
            row.append((time.perf_counter() - clock, time.process_time() - used))
    return times


if __name__ == "__main__":
    main()
