# SPDX-License-Identifier: Apache-2.0
"""The words of `--tuning`, and what a way came to."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from qcompile.rank_decay import RankDecay
from qcompile.saliency import Saliency
from qcompile.sharpness import Sharpness
from qcompile.tunable import Tunable
from qcompile.tuning_ways import Leaves, Way

TUNINGS: dict[str, Callable[[], Way]] = {
    "plain": Way,
    "sharpness": Sharpness,
    "saliency": Saliency,
    "rank-decay": RankDecay,
}


@dataclass(frozen=True)
class Tried:
    """The least loss on held-out samples of the way of that word, at which rate, and its numbers.

    note: of the other way.
    """

    word: str
    rate: float
    loss: float
    numbers: Leaves
    note: str = ""

    def against(self, plain: "Tried") -> "Tried":
        """This one where its loss is smaller, else plain tuning.

        >>> plain = Tried("plain", 1.0, 0.5, {})
        >>> Tried("saliency", 1.0, 0.25, {}).against(plain).note
        ' with saliency (plain 0.5)'
        >>> Tried("saliency", 1.0, 0.75, {}).against(plain).note
        ' (saliency is no better: 0.75)'
        """
        if self.loss < plain.loss:
            return replace(self, note=f" with {self.word} (plain {plain.loss:.3g})")
        return replace(plain, note=f" ({self.word} is no better: {self.loss:.3g})")

    def put(self, found: dict[str, Tunable]) -> None:
        """The numbers of this try."""
        for name, t in self.numbers.items():
            found[name].t = t
