# SPDX-License-Identifier: Apache-2.0
"""An operand as a strided view of codes that lie elsewhere: what moving data did, undone.

Transpose, Squeeze, Unsqueeze, Split, Gather of one index and Reshape that splits axes only change
where an index leads. A view says for each axis of an operand which part of which axis of another
value it is, and at which index the other parts stay.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from qcompile.graph import attribute, constant, input_of, is_constant, is_op

Place = tuple[int, int]  # an axis of the value, and which part of it


@dataclass(frozen=True)
class OperandView:
    """places: of each axis of the operand. fixed: the index at which another place stays.

    parts: the sizes of an axis that is split, −1 for one that is not known; others are whole.
    """

    value: ir.Value
    places: tuple[Place, ...]
    fixed: Mapping[Place, int] = field(default_factory=dict)
    parts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_axes(self) -> int:
        """Of the value."""
        return 1 + max(axis for axis, _ in (*self.places, *self.fixed))

    def mapped(self, value: ir.Value, axes: list[int]) -> "OperandView":
        """Of another value, where axis i of this one is axes[i]."""
        return OperandView(
            value,
            tuple((axes[axis], part) for axis, part in self.places),
            {(axes[axis], part): at for (axis, part), at in self.fixed.items()},
            {axes[axis]: sizes for axis, sizes in self.parts.items()},
        )

    def stays(self, axis: int, at: int) -> "OperandView":
        """At one index of an axis that no place has yet."""
        return replace(self, fixed={**self.fixed, (axis, 0): at})

    def is_whole(self, axis: int) -> bool:
        """Whether the axis is not split."""
        return len(self.parts.get(axis, ())) < 2


def view_of(value: ir.Value, rank: int) -> OperandView:
    """The view of a value through all nodes that moved its data."""
    view: OperandView | None = OperandView(value, tuple((i, 0) for i in range(rank)))
    found = view
    while view is not None:
        found, view = view, _before(view)
    assert found is not None
    return found


def _before(view: OperandView) -> OperandView | None:
    """The same view of what the producer reads; None where it does not just move data."""
    node = view.value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or is_constant(source):
        return None
    if is_op(node, "Transpose") and "perm" in node.attributes:
        return view.mapped(source, list(attribute(node, "perm")))
    if is_op(node, "Squeeze", "Unsqueeze"):
        return _resqueezed(node, source, view)
    if is_op(node, "Gather"):
        return _picked(node, source, view)
    if is_op(node, "Split"):
        return _cut(node, source, view)
    return _joined(node, source, view) if is_op(node, "Reshape") else None


def _resqueezed(node: ir.Node, source: ir.Value, view: OperandView) -> OperandView | None:
    given = constant(input_of(node, 1))
    if given is None:
        return None
    is_squeeze, count = is_op(node, "Squeeze"), view.num_axes
    rank = count + len(given) if is_squeeze else count
    gone = {int(axis) % rank for axis in given}
    kept = [axis for axis in range(rank) if axis not in gone]
    if is_squeeze:
        found = view.mapped(source, kept)
        for axis in gone:
            found = found.stays(axis, 0)
        return found
    if any(view.fixed.get((axis, 0)) != 0 or not view.is_whole(axis) for axis in gone):
        return None
    left = {place: at for place, at in view.fixed.items() if place[0] not in gone}
    axes = [kept.index(axis) if axis in kept else -1 for axis in range(rank)]
    return replace(view, fixed=left).mapped(source, axes)


def _picked(node: ir.Node, source: ir.Value, view: OperandView) -> OperandView | None:
    """Gather of one index, whose axis is gone."""
    index, rank = constant(node.inputs[1]), view.num_axes + 1
    if index is None or index.ndim or int(index) < 0:
        return None
    axis = int(attribute(node, "axis", 0)) % rank
    return view.mapped(source, [i for i in range(rank) if i != axis]).stays(axis, int(index))


def _cut(node: ir.Node, source: ir.Value, view: OperandView) -> OperandView | None:
    """One output of Split, of which the view has one index alone."""
    axis = int(attribute(node, "axis", 0)) % view.num_axes
    at, sizes = view.fixed.get((axis, 0)), constant(input_of(node, 1))
    if at is None or sizes is None or not view.is_whole(axis):
        return None
    start = int(sizes[: list(node.outputs).index(view.value)].sum())
    return replace(view, value=source, fixed={**view.fixed, (axis, 0): at + start})


def _joined(node: ir.Node, source: ir.Value, view: OperandView) -> OperandView | None:
    """A Reshape, or several in a row, that splits axes: they are whole before it."""
    wanted = constant(input_of(node, 1))
    while (before := source.producer()) is not None and is_op(before, "Reshape"):
        if before.inputs[0] is None:
            break
        source = before.inputs[0]
    if wanted is None or source.shape is None or attribute(node, "allowzero", 0):
        return None
    flat: list[int] = []  # the axes behind it, those that are split later as their parts
    at: dict[Place, int] = {}
    for axis, size in enumerate(wanted):
        for part, each in enumerate(view.parts.get(axis, (int(size),))):
            at[axis, part] = len(flat)
            flat.append(each)
    runs = split_axes([d if isinstance(d, int) else -1 for d in source.shape], flat)
    if runs is None:
        return None
    places = {i: (axis, part) for axis, run in enumerate(runs) for part, i in enumerate(run)}
    fixed = {places[at[place]]: index for place, index in view.fixed.items()}
    fixed |= {(axis, 0): 0 for axis, run in enumerate(runs) if not run}  # of 1, which it drops
    return OperandView(
        source,
        tuple(places[at[place]] for place in view.places),
        fixed,
        {axis: tuple(flat[i] for i in run) for axis, run in enumerate(runs) if len(run) > 1},
    )


def split_axes(dims: list[int], wanted: list[int]) -> list[list[int]] | None:
    """For each of dims the axes of `wanted` that it is split into; None where it is not.

    −1 is a size that is not known; one of 1 may have no axes.

    >>> split_axes([197, -1, 192], [197, -1, 3, 64]), split_axes([-1, 64], [-1, 64])
    ([[0], [1], [2, 3]], [[0], [1]])
    >>> split_axes([-1, 64], [-1, 8, 64]), split_axes([1, 6], [2, 3]), split_axes([-1], [2, 3])
    ([[0, 1], [2]], [[], [0, 1]], [[0, 1]])
    >>> split_axes([4, 6], [6, 4]), split_axes([-1, -1], [-1, 3]), split_axes([-1, 6], [-1, 4])
    (None, None, None)
    """
    if 0 in wanted or dims.count(-1) > 1:
        return None
    if -1 not in dims or -1 not in wanted:
        sizes = _resolved(dims, wanted)
        if sizes is None:
            return None
        runs, end = _runs(*sizes)
        return runs if end == len(wanted) and len(runs) == len(dims) else None
    front, left = _runs(dims, wanted)
    back, right = _runs(dims[::-1], wanted[::-1])
    middle = list(range(left, len(wanted) - right))
    if len(front) + len(back) + 1 != len(dims) or wanted[left : len(wanted) - right].count(-1) != 1:
        return None
    mirrored = [[len(wanted) - 1 - i for i in reversed(run)] for run in reversed(back)]
    return [*front, middle, *mirrored]


def _resolved(dims: list[int], wanted: list[int]) -> tuple[list[int], list[int]] | None:
    """Both without −1, where one of them has none; None where they cannot be of one size."""
    known = math.prod(wanted if -1 not in wanted else dims)
    out = []
    for sizes in (dims, wanted):
        rest = abs(math.prod(sizes))
        if rest == 0 or known % rest or (-1 not in sizes and rest != known):
            return None
        out.append([known // rest if size == -1 else size for size in sizes])
    return out[0], out[1]


def _runs(dims: list[int], wanted: list[int]) -> tuple[list[list[int]], int]:
    """Runs of `wanted` whose products are the dims from the front, up to −1 or a misfit."""
    runs: list[list[int]] = []
    end = 0
    for size in dims:
        run, product = [], 1
        while product < size and end < len(wanted) and wanted[end] > 0:
            product *= wanted[end]
            run.append(end)
            end += 1
        if size == -1 or product != size:
            return runs, end - len(run)
        runs.append(run)
    while runs and end < len(wanted) and wanted[end] == 1:  # belong to the last
        runs[-1].append(end)
        end += 1
    return runs, end
