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

    facts: what else there is to say, for the table and the JSON. in_a_row: runs of one time.
    """

    name: str
    factor: float
    against: str
    ours: Callable[[], Candidate]
    peers: tuple[Peer, ...]
    limit: Callable[[], Candidate]
    facts: Callable[[], dict[str, Any]] = dict
    in_a_row: int = 1


class Kept:
    """The runs of peers, for as long as a line that is still to come has them."""

    def __init__(self, works: Iterable[Work]) -> None:
        self._uses = Counter(peer.identity for work in works for peer in work.peers)
        self._runs: dict[tuple[object, ...], Sequence[Run]] = {}

    def candidates(self, peers: Iterable[Peer]) -> list[Candidate]:
        """Of a line, those that are missing built now."""
        found = []
        for peer in peers:
            if peer.identity not in self._runs:
                self._runs[peer.identity] = peer.build()
            found.append(Candidate(peer.name, self._runs[peer.identity]))
        return found

    def release(self, peers: Iterable[Peer]) -> None:
        """A line is done with its peers."""
        for peer in peers:
            self._uses[peer.identity] -= 1
            if not self._uses[peer.identity]:
                del self._runs[peer.identity]


def rotated(num_bytes: int, build: Callable[[], Run], *, is_decode: bool) -> list[Run]:
    """So many copies that decode reads its weights from memory; one for other work."""
    return [build() for _ in range(-(-ROTATED_BYTES // num_bytes) if is_decode else 1)]
