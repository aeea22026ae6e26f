# SPDX-License-Identifier: Apache-2.0
"""How runs of a model are divided so that what they record fits the memory.

What the values of one sample take is known from ONNX's shape inference with the sizes of the data.
First a run gets fewer samples; where one sample is still too much, the values go in groups with a
pass over the data each.
"""

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.errors import InputError
from qcompile.graph import FLOAT, is_constant, static_shape
from qcompile.memory import BASE_BYTES, Budget
from qcompile.session import open_model, run_float, session_options, with_outputs
from qcompile.windows import misfits, refuse_misfits, sized
from qcompile.workers import Workers

Key = TypeVar("Key", bound=Hashable)
_UNITS = 4  # bytes of a float32
_COPIES = 2  # of a recorded value: ONNX Runtime's, and NumPy's
_RUN_BYTES = 1 << 27  # of a run of several samples, whatever memory there is; more saves no tenth


@dataclass(frozen=True)
class Footprint:
    """Bytes that values of the normalised model take: of one sample, or of a fixed batch.

    live_bytes: the most that a run holds at once beside weights, with no value recorded. Values
    whose shape ONNX does not infer count as large as the largest known one. held_bytes: what
    stays in memory, all samples, and twice the weights that lie in the model's own file. misfits:
    windows that are larger than their map, a line each.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    live_bytes: int = 0
    held_bytes: int = 0
    misfits: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: ir.Model, data: Data) -> "Footprint":
        """For the first sample of the data, in float32 whatever the values are."""
        feed = data.batch.cut(data.feeds[0], 1)
        outline = sized(model, {name: array.shape for name, array in feed.items()})
        made = [v for n in outline.graph if not _is_constant(n) for v in n.outputs]
        known = {v.name or "": static_shape(v) for v in made}
        known |= {v.name or "": static_shape(v) for v in outline.graph.inputs}
        sizes = {name: _UNITS * math.prod(s) for name, s in known.items() if s is not None}
        largest = max(sizes.values(), default=0)
        sizes |= dict.fromkeys(known.keys() - sizes.keys(), largest)
        held = sum(array.nbytes for each in data.feeds for array in each.values())
        held += 2 * _inside_bytes(model)  # of the model, and of a session
        live = _live_bytes(outline.graph, sizes)
        return cls(sizes, live, held, tuple(misfits(outline.graph)))

    def of_values(self, values: Iterable[ir.Value | str]) -> int:
        """Bytes of values of any stage, which carry the name of the float value they stand for."""
        return sum(self._size(v) for v in dict.fromkeys(values))

    def _size(self, value: ir.Value | str) -> int:
        name = value if isinstance(value, str) else value.metadata_props.get(FLOAT, value.name)
        if name in self.sizes:
            return self.sizes[name]
        return max(self.sizes.values(), default=0)


def _inside_bytes(model: ir.Model) -> int:
    """Of weights that are no external data, which is mapped."""
    tensors = (v.const_value for graph in model.graphs() for v in graph.initializers.values())
    return sum(t.nbytes for t in tensors if isinstance(t, ir.Tensor | ir.serde.TensorProtoTensor))


def _is_constant(node: ir.Node) -> bool:
    """Whether the node only turns a weight, as for x · wᵀ: that is no value of a run."""
    return bool(node.inputs) and all(v is None or is_constant(v) for v in node.inputs)


def _live_bytes(graph: ir.Graph, sizes: dict[str, int]) -> int:
    """The most that the values between their first and last use take, nodes in their order."""
    last: dict[str, ir.Node] = {}
    for node in graph:
        for value in node.inputs:
            if value is not None:
                last[value.name or ""] = node
    held = most = sum(sizes.get(v.name or "", 0) for v in graph.inputs)
    for node in graph:
        held += sum(sizes.get(v.name or "", 0) for v in node.outputs)
        most = max(most, held)
        ended = {v.name or "" for v in node.inputs if v is not None and last[v.name or ""] is node}
        ended |= {v.name or "" for v in node.outputs if v.name not in last}
        held -= sum(sizes.get(name, 0) for name in ended)
    return most


@dataclass(frozen=True)
class Division:
    """What stages that run the model are given: the memory, what its values take, processes."""

    budget: Budget = field(default_factory=Budget)
    footprint: Footprint = field(default_factory=Footprint)
    workers: Workers = field(default_factory=Workers)

    @property
    def working_bytes(self) -> int:
        """What one method may take beside samples, weights and sessions."""
        return max(self.budget.working_bytes - self.footprint.held_bytes // 2, 1)

    def check(self) -> None:
        """InputError where not even one sample (or a fixed batch) runs, or not in the memory."""
        refuse_misfits(list(self.footprint.misfits))
        largest = max(self.footprint.sizes.values(), default=0)
        need = self.footprint.live_bytes + _COPIES * largest
        if need <= self.working_bytes:
            return
        held = self.footprint.held_bytes
        least = BASE_BYTES + held + 2 * need
        raise InputError(
            f"--max-memory {self.budget.limit_bytes / 1e6:.0f} MB is too small: one run of the "
            f"float model holds {need / 1e6:.0f} MB of values, samples and weights "
            f"{held / 1e6:.0f} MB, and compiling it needs {least / 1e6:.0f} MB: give --max-memory "
            f"{-(-least // 10**6)}MB or more, fewer or smaller samples, or a model "
            "with external data"
        )

    def split(self, sizes: dict[Key, int], data: Data) -> tuple[Data, list[list[Key]]]:
        """The data with as many samples a run as fit, and what is recorded in groups.

        sizes: bytes of one sample of what is recorded together. At least one of them a group.
        """
        most, live = self.working_bytes, self.footprint.live_bytes
        total = live + _COPIES * sum(sizes.values())
        if total <= most:
            samples = max(min(most, _RUN_BYTES) // max(total, 1), 1)
            return _at_most(samples, data), [list(sizes)]
        groups: list[list[Key]] = [[]]
        held = live
        for key, size in sizes.items():
            if groups[-1] and held + _COPIES * size > most:
                groups.append([])
                held = live
            groups[-1].append(key)
            held += _COPIES * size
        return _at_most(1, data), groups

    def runs(
        self, model: ir.Model, wanted: dict[Key, list[str]], data: Data
    ) -> Iterator[tuple[list[Key], dict[str, NDArray]]]:
        """Run the float model over the data: of each run whose values it has, and the values."""
        given = {v.name or "" for v in model.graph.inputs}
        sizes = {key: self.footprint.of_values(names) for key, names in wanted.items()}
        parts, groups = self.split(sizes, data)
        for number, group in enumerate(groups):
            names = sorted({name for key in group for name in wanted[key]})
            fetched = [n for n in names if n not in given]
            session = self.open(with_outputs(model, fetched)) if fetched else None
            for feed in in_passes(parts, number, len(groups)):
                ran = [] if session is None else run_float(session, fetched, feed)
                found = dict(zip(fetched, ran, strict=True))
                yield group, found | {n: feed[n] for n in names if n in given}

    def open(
        self,
        model: ir.Model,
        *,
        optimise: bool = True,
        options: ort.SessionOptions | None = None,
    ) -> ort.InferenceSession:
        """A session of a float model that keeps to the memory: where it is tight, a slower one."""
        options = options or session_options(optimise=optimise)
        if self.budget.is_tight:
            options.enable_cpu_mem_arena = False  # it would keep twice the most it ever held
        return open_model(model, options, lean=self.budget.is_large(model))


def in_passes(data: Data, number: int, of: int) -> Data:
    """For the pass of that number, where all samples run several times: one progress."""
    watch = data.watch
    if watch is None or of < 2:
        return data
    return replace(data, watch=lambda unit, n, all_: watch(unit, n + number * all_, of * all_))


def _at_most(samples: int, data: Data) -> Data:
    """The data in runs of so many samples; a fixed batch stays whole."""
    most = max((data.batch.count(feed) for feed in data.feeds), default=0)
    if samples >= most or not data.batch.is_free:
        return data
    feeds = [piece for feed in data.feeds for piece in data.batch.split(feed, samples)]
    return replace(data, feeds=feeds)
