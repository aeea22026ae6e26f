# SPDX-License-Identifier: Apache-2.0
"""Rounding: every way to find the codes of a weight, behind one function.

A way has two parts. Rounders work on the second moments H = E[x xᵀ] of the layer's inputs, one on
top of the other; on held-out inputs the best of what they give and of the nearest codes is taken. A
rebuilder works on inputs and outputs themselves, once the network is quantized (reconstruct.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.observers.kept_weights import kept_weights
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.adaquant import adaquant
from qcompile.passes.transform.adaround import adaround
from qcompile.passes.transform.code_store import scale_method
from qcompile.passes.transform.descend import descend
from qcompile.passes.transform.distribution import distribution
from qcompile.passes.transform.gptq import gptq, output_error
from qcompile.passes.transform.layer_rows import Rebuilder
from qcompile.passes.transform.redescend import redescend
from qcompile.passes.transform.renormalise import renormalise
from qcompile.spec import QuantSpec

# (weight [N, K], nearest codes, H [groups, K, K], spec, is_signed) → codes; None: H has no use
Rounder = Callable[..., CodedWeight | None]
DEFAULT = "descent"


@dataclass(frozen=True)
class Rounding:
    """One way. is_tuned: whether tuning of the whole network goes on from it (tune.py).

    moves_codes: whether it moves codes, too (move_codes.py). is_curved: whether the rebuilder's
    loss is that of the network's curvature (output_curvature.py).
    after: a rebuilder for what the first one found. is_by_block: whether blocks are rebuilt
    (rebuild_blocks.py).
    """

    rounders: tuple[Rounder, ...] = ()
    rebuilder: Rebuilder | None = None
    is_tuned: bool = False
    moves_codes: bool = False
    is_curved: bool = False
    after: Rebuilder | None = None
    is_by_block: bool = False

    @property
    def rebuilders(self) -> list[Rebuilder]:
        """In their order."""
        return [each for each in (self.rebuilder, self.after) if each is not None]

    @property
    def names(self) -> list[str]:
        """Of the rounders."""
        return [rounder.__name__ for rounder in self.rounders]


ROUNDINGS = {
    "nearest": Rounding(),
    "gptq": Rounding((gptq,)),
    "descent": Rounding((gptq, descend), None, is_tuned=True),
    "sequential": Rounding((gptq, descend), redescend, is_tuned=True),
    "adaround": Rounding((gptq, descend), adaround, is_tuned=True),
    "adaquant": Rounding((gptq, descend), adaquant, is_tuned=True),
    "distribution": Rounding((gptq, descend), distribution, is_tuned=True),
    "kfac": Rounding((gptq, descend), adaround, is_tuned=True, is_curved=True),
    "pv": Rounding((gptq, descend), None, is_tuned=True, moves_codes=True),
    "blocks": Rounding((gptq, descend), is_tuned=True, is_by_block=True),
    "light": Rounding(after=renormalise),  # the two pipelines of Hubara et al. 2020
    "advanced": Rounding(rebuilder=adaquant, after=renormalise),
}


@dataclass(frozen=True)
class Quantized:
    """Codes, scales and zero points of a weight.

    error and nearest_error: Σ ((Ŵ − W) x)² over the held-out inputs, of these codes and of the
    nearest ones; equal where these are the nearest ones.
    """

    weight: CodedWeight
    error: float
    nearest_error: float

    @property
    def is_better(self) -> bool:
        """Than the nearest codes."""
        return self.error < self.nearest_error


def rounding_of(word: str | None) -> Rounding:
    """What the recipe asks for, given data."""
    return ROUNDINGS[word or DEFAULT]


def quantize(
    weight: NDArray[np.float32],
    hessian: NDArray[np.float32],
    spec: QuantSpec,
    held: NDArray[np.float32],
    *,
    rounding: Rounding,
    method: str | None = None,
    is_signed: bool = True,
) -> Quantized:
    """The codes of a weight [N, K] of any format with the least output error on held-out inputs.

    hessian [groups, K, K] as in gptq. held [num, groups, K]. method: of the nearest codes' scales.
    is_signed: whether a scale of a whole row may be negative. Of a sparse spec the nearest codes
    keep the weights of largest magnitude, and all others those of the largest |w| √H_jj.
    """
    nearest = code_weight(weight, spec, scale_method(spec, method))
    before = output_error(weight, nearest, held)
    found = Quantized(nearest, before, before)
    tried: list[CodedWeight] = []
    if spec.sparsity is not None:
        sizes = np.sqrt(np.diagonal(hessian, axis1=1, axis2=2))
        kept = kept_weights(weight, sizes)
        nearest = code_weight(weight, spec, scale_method(spec, method), kept=kept)
        tried = [nearest]
    made = (r(weight, nearest, hessian, spec, is_signed=is_signed) for r in rounding.rounders)
    for coded in (*tried, *made):
        if coded is not None:
            error = output_error(weight, coded, held)
            found = Quantized(coded, error, before) if error < found.error else found
    return replace(found, weight=replace(found.weight, kept=None))
