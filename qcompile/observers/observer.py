# SPDX-License-Identifier: Apache-2.0
"""Observer: looks at a tensor batch by batch, in bounded memory, and gives a range."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format


class Observer(ABC):
    """One activation tensor. The data is shown `num_passes` times, `next_pass()` in between."""

    num_passes = 1

    def __init__(self, format: Format) -> None:
        self.format = format

    @abstractmethod
    def update(self, x: NDArray[np.float32]) -> None:
        """One batch."""

    def next_pass(self) -> None:  # noqa: B027 - most observers need one pass
        """The data starts again."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Least and greatest value to represent."""
