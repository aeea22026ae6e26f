# SPDX-License-Identifier: Apache-2.0
"""Sessions of networks: what qcompile.load gives for a library, with the interface of ORT's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile import network_file, targets
from qcompile.errors import InputError, UnsupportedError
from qcompile.targets.tvm import run

GRAPH = "network.npz"  # beside the library of a GPU: what the emulator reads


@dataclass(frozen=True)
class Port:
    """An input or output: name, shape with a free batch, type, as ONNX Runtime has them."""

    name: str
    shape: list[Any]
    type: str = "tensor(float)"


class NetworkSession:
    """Runs a network on any number of samples.

    integers(codes [n, H, W, C]) gives the last node's integers; `facts` is the manifest's network.
    """

    def __init__(self, facts: dict[str, Any], integers: Any) -> None:
        self.facts, self._integers = facts, integers

    def get_inputs(self) -> list[Port]:
        """The only input."""
        return [_port(self.facts["input"])]

    def get_outputs(self) -> list[Port]:
        """The only output."""
        return [_port(self.facts["output"])]

    def run(
        self, names: list[str] | None, feed: dict[str, NDArray], *, raw: bool = False
    ) -> list[NDArray]:
        """The model's floats, or with raw its integers; names of outputs as ORT takes them."""
        border, output = self.facts["input"], self.facts["output"]
        for given, known in ((list(feed), border["name"]), (names, output["name"])):
            if given is not None and given != [known]:
                raise InputError(f"the network knows {known}, not {', '.join(given) or 'nothing'}")
        try:
            codes = run.quantize(feed[border["name"]], border)
            return [run.finish(self._integers(codes), output, raw)]
        except (run.RunError, ValueError) as error:
            raise InputError(str(error)) from None


def _port(border: dict[str, Any]) -> Port:
    return Port(border["name"], ["n", *border["dims"]])


def open_network(folder: Path, facts: dict[str, Any], threads: int | None) -> NetworkSession:
    """The library on the device that it is for; UnsupportedError where the machine lacks it."""
    try:
        network = run.Network(folder)
        if threads is not None:
            network.library.set_threads(threads)
    except run.RunError as error:
        cure = "; with emulate=True qcompile.load runs the same kernels on the CPU, slowly"
        raise UnsupportedError(f"{error}{cure * (facts['device'] == 'cuda')}") from None
    return NetworkSession(facts, network.integers)


def emulated_network(folder: Path, target: str, facts: dict[str, Any]) -> NetworkSession:
    """The CUDA source of an artifact on the CPU, lane by lane: the same integers, slowly."""
    compiler = targets.get(target).compiler
    if compiler is None or compiler.emulate is None:
        raise InputError(f"target {target} has nothing to emulate: leave out emulate")
    graph = network_file.load(folder / GRAPH)
    source = (folder / facts["library"]).with_suffix(".cu").read_text(encoding="utf-8")
    plan = compiler.emulate(graph, source)

    def integers(codes: NDArray) -> NDArray:
        parts = [np.zeros((0, *graph.output.shape), facts["output"]["kind"])]
        for start in range(0, len(codes), graph.batch):
            part = codes[start : start + graph.batch]
            extra = np.zeros((graph.batch - len(part), *codes.shape[1:]), codes.dtype)
            arrays = plan.run(np.concatenate([part, extra]))
            parts.append(arrays[plan.plan.steps[-1].output][: len(part)])
        return np.concatenate(parts)

    return NetworkSession(facts, integers)
