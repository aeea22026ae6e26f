# SPDX-License-Identifier: Apache-2.0
"""An integer graph with its borders: how the user's floats become codes, and integers floats."""

from dataclasses import dataclass, replace

from qcompile.integer_graph import Add, Conv, Excerpt, IntegerGraph, Node, Residual
from qcompile.numerics.dyadic import DyadicPair


@dataclass(frozen=True)
class Border:
    """How the user's floats and the codes of a graph stand for each other.

    Input [B, dims] → codes: clamp(rint(x / scale) + zero_point, limits), in the order of the map.
    Output: floats [B, dims] = (integers − zero_point) · scale. order: the axes of the map that the
    dimensions hold.
    """

    name: str
    dims: tuple[int, ...]
    order: tuple[int, ...]
    scale: float
    zero_point: int
    limits: tuple[int, int]


@dataclass(frozen=True)
class Network:
    """An integer graph, and what stands at its borders.

    sources: the user's nodes that each node of the graph computes, by the name of its map.
    """

    graph: IntegerGraph
    input: Border
    output: Border
    sources: dict[str, tuple[str, ...]]


def fused(
    nodes: list[Node], sources: dict[str, tuple[str, ...]]
) -> tuple[list[Node], dict[str, tuple[str, ...]]]:
    """The nodes with every sum in the kernel of a convolution, and excerpts of excerpts as one."""
    sources = dict(sources)
    for join in (_joined_excerpt, _joined_sum):
        readers: dict[str, int] = {}
        for node in nodes:
            for x in node.inputs():
                readers[x.name] = readers.get(x.name, 0) + 1
        made: dict[str, Node] = {node.y.name: node for node in nodes}
        gone: set[str] = set()
        out: list[Node] = []
        for node in nodes:
            joined = join(node, made, readers)
            if joined is not None:
                gone.add(joined[0])
                made[node.y.name] = joined[1]
                sources[node.y.name] = sources.pop(joined[0]) + sources[node.y.name]
            out.append(node if joined is None else joined[1])
        nodes = [node for node in out if node.y.name not in gone]
    return nodes, sources


def _joined_excerpt(
    node: Node, made: dict[str, Node], readers: dict[str, int]
) -> tuple[str, Node] | None:
    """The name of an excerpt without borders that only this one reads, and both as one."""
    inner = made.get(node.x.name) if isinstance(node, Excerpt) else None
    if not isinstance(node, Excerpt) or not isinstance(inner, Excerpt):
        return None
    if readers[inner.y.name] > 1 or any(inner.before) or inner.count != inner.y.shape:
        return None
    both = list(zip(inner.start, inner.step, node.start, node.step, strict=True))
    start, step = zip(*((s + d * t, d * e) for s, d, t, e in both), strict=True)
    return inner.y.name, replace(node, x=inner.x, start=start, step=step)


def _joined_sum(
    node: Node, made: dict[str, Node], readers: dict[str, int]
) -> tuple[str, Node] | None:
    """A term's name, and its convolution with the sum: the term with most products."""
    if not isinstance(node, Add):
        return None
    turned = DyadicPair(node.scale.b, node.scale.a, node.scale.exponent)
    ways = (node.a, node.b, node.scale), (node.b, node.a, turned)
    terms = [
        (term, other, pair)
        for own, other, pair in ways
        if isinstance(term := made.get(own.name), Conv)
        and term.residual is None
        and readers[own.name] == 1
    ]
    if not terms:
        return None
    term, other, pair = max(terms, key=lambda found: found[0].num_products)
    residual = Residual(term.y, other, pair, term.clip)
    return term.y.name, replace(term, y=node.y, residual=residual, clip=node.clip)
