# SPDX-License-Identifier: Apache-2.0
"""The roofline of every layer of a ResNet on a T4, beside what HAWQ-V3 published for it.

    python -m benchmarks.t4_layers [--depth 18|50] [--bits 8|4] [--build]

Needs no GPU; nothing is measured. --build compiles the network too, by nvcc: its registers, spills
and bytes.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.targets.tvm.resnets import PUBLISHED_MS, PUBLISHED_NETWORK_MS, resnet

BATCH = 8


def main() -> None:
    """Print one line a layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=18, choices=(18, 50))
    parser.add_argument("--bits", type=int, default=8, choices=(4, 8))
    parser.add_argument("--build", action="store_true")
    arguments = parser.parse_args()
    from qcompile.targets.tvm.roofline import roof

    graph = resnet(arguments.depth, BATCH, arguments.bits)
    published = PUBLISHED_MS[arguments.bits] if arguments.depth == 18 else {}
    print(f"{'layer':10} {'roofline ms':>12} {'bound':8} {'published ms':>12}")
    total = 0.0
    for node in graph.nodes:
        found = roof(node, BATCH)
        total += 1000 * found.seconds
        known = published.get(node.y.name)
        text = "" if known is None else f"{known:12.4f}"
        print(f"{node.y.name:10} {1000 * found.seconds:12.4f} {found.bound:8} {text}")
    whole = PUBLISHED_NETWORK_MS[(arguments.depth, arguments.bits)]
    print(f"{'network':10} {total:12.4f} {'':8} {whole:12.4f}")
    if arguments.build:
        _build(graph)


def _build(graph: object) -> None:
    from qcompile.targets import t4

    begun = os.times()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.so")
        clock = time.perf_counter()
        rows = t4.build(graph, path).kernels  # type: ignore[arg-type]
        clock, used = time.perf_counter() - clock, os.times()
        size = path.stat().st_size
    cpu = sum(used[:4]) - sum(begun[:4])
    spills = sum(row["spill_bytes"] for row in rows)
    registers = max(row["registers"] for row in rows)
    print(f"{len(rows)} kernels in {cpu:.0f} s of CPU time ({clock:.0f} s)")
    print(f"{size / 1e6:.1f} MB, {spills} bytes of spills, at most {registers} registers")


if __name__ == "__main__":
    main()
