# SPDX-License-Identifier: Apache-2.0
"""Observer: looks at a tensor batch by batch, in bounded memory, and gives a range."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format


class Observer(ABC):
    """One activation tensor."""

    def __init__(self, format: Format) -> None:
        self.format = format

    @abstractmethod
    def update(self, x: NDArray[np.float32]) -> None:
        """One batch."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Least and greatest value to represent."""
