# SPDX-License-Identifier: Apache-2.0
"""What goes into the bodies of If, Loop and Scan: their inputs, recorded by running the model.

ONNX Runtime runs the graph around a holder, and each step of its body; the rule of the holder
(which branch, how often, which slice) is followed here. So a step may have any shapes, and a body
inside a body is recorded the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qcompile.bodies import Body, bodies_in, capture_names, closed
from qcompile.data import Batch, Data, Feed
from qcompile.errors import InputError
from qcompile.graph import attribute
from qcompile.session import open_model, run_float, session_options, with_outputs
from qcompile.synthetic import synthetic_data

FATAL = 4  # ONNX Runtime's level of messages
MOST_STEPS = 4096  # of one run of a Loop or Scan; what follows is not recorded


@dataclass(frozen=True)
class Kept:
    """How much of what goes into a body is kept at most; by default as much as verify looks at.

    steps: of one run of a Loop or Scan, 2 or more. feeds, num_bytes: of all runs. The rungs of
    verify run NumPy on every node for each feed.
    """

    steps: int = 3
    feeds: int = 6
    num_bytes: int = 1 << 40

    def of_run(self, run: Iterator[Feed]) -> list[tuple[int, Feed]]:
        """The last step of a run, and of those before it every 2ⁿ-th."""
        kept: list[tuple[int, Feed]] = []
        for step, feed in enumerate(run):
            stride = _stride(step, self.steps - 1)
            kept = [(i, f) for i, f in kept if i % stride == 0]
            kept.append((step, feed))
        return kept


def _stride(count: int, most: int) -> int:
    """The power of two by which at most `most` of so many steps are taken.

    >>> [_stride(count, 2) for count in (1, 2, 3, 4, 5, 100)]
    [1, 1, 2, 2, 4, 64]
    """
    stride = 1
    while -(-count // stride) > most:
        stride *= 2
    return stride


@dataclass
class Recording:
    """The feeds of one body as a model; the most steps of one run; its largest product on them.

    problem: why nothing could be recorded.
    """

    feeds: list[Feed] = field(default_factory=list)
    most_steps: int = 0
    largest_product: float = 0.0
    problem: str = ""

    def add(self, run: Iterator[Feed], kept: Kept) -> None:
        """One run, of which some steps are kept, the first and the last among them."""
        steps = kept.of_run(run)
        self.most_steps = max(self.most_steps, steps[-1][0] + 1 if steps else 0)
        for _, feed in steps:
            if len(self.feeds) < kept.feeds and self.num_bytes < kept.num_bytes:
                self.feeds.append(feed)

    @property
    def num_bytes(self) -> int:
        """Of the feeds; what several steps of a run are given alike counts once."""
        arrays: dict[int, Any] = {id(x): x for feed in self.feeds for x in feed.values()}
        return sum(x.nbytes for x in arrays.values() if isinstance(x, np.ndarray))


def record_bodies(model: ir.Model, data: Data, kept: Kept = Kept()) -> dict[str, Recording]:
    """Path of every body → what it was given on the data; no feeds where it was not run."""
    found: dict[str, Recording] = {}
    _record(model, model, model.graph, {}, list(data), found, kept)
    return found


def body_data(recording: Recording, body: ir.Model) -> Data | str:
    """The recorded inputs of a body, random ones where it was not run, or why there are none."""
    if recording.feeds:
        return Data(recording.feeds, Batch({}))
    if recording.problem:
        return recording.problem
    try:
        data = synthetic_data(body, 0)
    except InputError as error:
        return str(error)
    options = session_options(1)
    options.log_severity_level = FATAL  # a branch that the data never takes may not take these
    try:
        session = open_model(body, options)
        for feed in data:
            run_float(session, None, feed)
    except InputError:
        return "the data never runs it, and it does not run on random ones"
    return data


def _record(
    model: ir.Model,
    part: ir.Model,
    graph: ir.Graph,
    inside: dict[str, str],
    feeds: list[Feed],
    found: dict[str, Recording],
    kept: Kept,
) -> None:
    """The bodies of one graph; `part` is the graph as a model, `inside` its captured names."""
    bodies = list(bodies_in(graph))
    for body in bodies:
        found.setdefault(body.path, Recording())
    if not bodies:
        return
    parts = {body.path: closed(model, body.path) for body in bodies}
    try:
        _run(part, bodies, parts, inside, feeds, found, kept)
    except InputError as error:  # what has no known type cannot be shown
        for body in bodies:
            found[body.path].feeds.clear()
            found[body.path].problem = str(error)
    for body in bodies:
        feeds_inside = found[body.path].feeds
        _record(model, parts[body.path], body.graph, capture_names(body), feeds_inside, found, kept)


def _run(
    part: ir.Model,
    bodies: list[Body],
    parts: dict[str, ir.Model],
    inside: dict[str, str],
    feeds: list[Feed],
    found: dict[str, Recording],
    kept: Kept,
) -> None:
    """Run the graph, and follow each of its holders."""
    wanted = {n for body in bodies for n in (*_inputs(body.holder), *capture_names(body))}
    names = sorted(inside.get(name, name) for name in wanted)
    sessions = {path: open_model(each, session_options(1)) for path, each in parts.items()}
    outer = open_model(with_outputs(part, names), session_options(1)) if names else None
    for feed in feeds:
        values = (
            {} if outer is None else dict(zip(names, run_float(outer, names, feed), strict=True))
        )
        for holder in dict.fromkeys(body.holder for body in bodies):
            held = {b.attribute: b for b in bodies if b.holder is holder}
            steps = _Steps(holder, held, sessions, inside, values)
            for body, run in steps.run():
                found[body.path].add(run, kept)


def _inputs(node: ir.Node) -> list[str]:
    return [v.name or "" for v in node.inputs if v is not None]


@dataclass
class _Steps:
    """One run of a holder, step by step."""

    holder: ir.Node
    bodies: dict[str, Body]
    sessions: dict[str, ort.InferenceSession]
    inside: dict[str, str]
    values: dict[str, Any]

    def run(self) -> Iterator[tuple[Body, Iterator[Feed]]]:
        """(body, the feeds of its steps)."""
        given: list[Any] = [
            None if v is None else self._value(v.name or "") for v in self.holder.inputs
        ]
        if self.holder.op_type == "If":
            body = self.bodies["then_branch" if bool(np.ravel(given[0])[0]) else "else_branch"]
            yield body, iter([self._captures(body)])
        elif self.holder.op_type == "Loop":
            yield self.bodies["body"], self._loop(self.bodies["body"], given)
        else:
            yield self.bodies["body"], self._scan(self.bodies["body"], given)

    def _value(self, name: str) -> Any:
        return self.values[self.inside.get(name, name)]

    def _captures(self, body: Body) -> Feed:
        return {inner: self._value(name) for name, inner in capture_names(body).items()}

    def _step(self, body: Body, feed: Feed) -> list[Any]:
        session = self.sessions[body.path]
        taken = {v.name for v in session.get_inputs()}
        return run_float(session, None, {k: v for k, v in feed.items() if k in taken})

    def _loop(self, body: Body, given: list[Any]) -> Iterator[Feed]:
        names, constant = [v.name or "" for v in body.graph.inputs], self._captures(body)
        most = MOST_STEPS if given[0] is None else min(int(np.ravel(given[0])[0]), MOST_STEPS)
        goes_on = len(given) < 2 or given[1] is None or bool(np.ravel(given[1])[0])
        state = given[2:]
        for step in range(most):
            if not goes_on:
                return
            first = [np.array(step, np.int64), np.array(True)]
            feed = dict(zip(names, [*first, *state], strict=True)) | constant
            yield feed
            out = self._step(body, feed)
            goes_on, state = bool(np.ravel(out[0])[0]), out[1 : 1 + len(state)]

    def _scan(self, body: Body, given: list[Any]) -> Iterator[Feed]:
        names, constant = [v.name or "" for v in body.graph.inputs], self._captures(body)
        count = int(attribute(self.holder, "num_scan_inputs"))
        axes = attribute(self.holder, "scan_input_axes", [0] * count)
        backwards = attribute(self.holder, "scan_input_directions", [0] * count)
        state, slices = given[: len(given) - count], given[len(given) - count :]
        slices = [np.moveaxis(x, axis, 0) for x, axis in zip(slices, axes, strict=True)]
        slices = [x[::-1] if back else x for x, back in zip(slices, backwards, strict=True)]
        for step in range(min(len(slices[0]), MOST_STEPS)):
            now = [np.ascontiguousarray(x[step]) for x in slices]
            feed = dict(zip(names, [*state, *now], strict=True)) | constant
            yield feed
            state = self._step(body, feed)[: len(state)]
