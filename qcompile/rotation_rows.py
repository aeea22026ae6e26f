# SPDX-License-Identifier: Apache-2.0
"""What was decided about one edge or input that could be rotated, for report and manifest."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figures:
    """Of the inputs of products, as they are quantized.

    sqnr_db: of the products' outputs, from the mean of noise ÷ signal. kurtosis: the mean over rows
    of mean x⁴ ÷ (mean x²)², 3 for a normal distribution. crest: the mean of max |x| ÷ rms.
    """

    sqnr_db: float
    kurtosis: float
    crest: float


@dataclass(frozen=True)
class RotationRow:
    """An edge: what it is, which products read it, and whether it was rotated.

    transform: None where nothing can be. seed: of the matrix. is_online: the rotation is computed
    at run time. before, after: None where nothing was measured. reason: why not, or what it costs.
    """

    value: str
    kind: str
    readers: tuple[str, ...]
    transform: str | None = None
    size: int = 0
    seed: int | None = None
    is_applied: bool = False
    is_online: bool = False
    reason: str = ""
    before: Figures | None = None
    after: Figures | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"readers": list(self.readers)}
