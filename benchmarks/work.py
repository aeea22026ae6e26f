# SPDX-License-Identifier: Apache-2.0
"""A line of benchmarks.kernels: our way to do some work, its peers, its limit and its goal.

Nothing is built before its turn. Peers that several lines have in common are built once, and go
after the last of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.interleave import Candidate
from benchmarks.limits import ROTATED_BYTES

PEERS = "best peer"
LIMIT = "limit"
OURS = "ours"

Run = Callable[[], object]
# Of a run of decode, one after the other, as the layers of a decoder: a session of a single short
# product would mostly show what starting one costs.
DECODE_PRODUCTS = 8


@dataclass(frozen=True)
class Peer:
    """Another way to do the work; of equal name and `key` one is built.

    key: all that the runs depend on. A name that starts with "ours" is no peer in the verdicts.
    """

    name: str
    key: tuple[object, ...]
    build: Callable[[], Sequence[Run]]

    @property
    def identity(self) -> tuple[object, ...]:
        """Of the runs."""
        return (self.name, *self.key)


@dataclass(frozen=True)
class Work:
    """Our time is to be `factor` × `against` at most: LIMIT, PEERS or the start of a name.

    facts: what else there is to say, for the table and the JSON. products: of a run of ours or of
    a peer; times are those of one.
    """

    name: str
    factor: float
    against: str
    ours: Callable[[], Candidate]
    peers: tuple[Peer, ...]
    limit: Callable[[], Candidate]
    facts: Callable[[], dict[str, Any]] = dict
    products: int = 1


class Kept:
    """The runs of peers, for as long as a line that is still to come has them."""

    def __init__(self, works: Iterable[Work]) -> None:
        self._uses = Counter(peer.identity for work in works for peer in work.peers)
        self._runs: dict[tuple[object, ...], Sequence[Run]] = {}

    def candidates(self, work: Work) -> list[Candidate]:
        """The peers of a line, those that are missing built now."""
        found = []
        for peer in work.peers:
            if peer.identity not in self._runs:
                self._runs[peer.identity] = peer.build()
            found.append(Candidate(peer.name, self._runs[peer.identity], 1 / work.products))
        return found

    def release(self, peers: Iterable[Peer]) -> None:
        """A line is done with its peers."""
        for peer in peers:
            self._uses[peer.identity] -= 1
            if not self._uses[peer.identity]:
                del self._runs[peer.identity]


def rotated(num_bytes: int, build: Callable[[int], Run], *, is_decode: bool) -> list[Run]:
    """`build` makes a run of so many products, each with its own weight of `num_bytes`.

    Decode has so many that it reads its weights from memory; other work is one product.
    """
    if not is_decode:
        return [build(1)]
    return [
        build(DECODE_PRODUCTS) for _ in range(-(-ROTATED_BYTES // (num_bytes * DECODE_PRODUCTS)))
    ]
