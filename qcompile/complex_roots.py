# SPDX-License-Identifier: Apache-2.0
"""The weight format iroots2: complex products with weights of ±1 and ±i, 2 bits a complex weight.

iFairy (Wang et al. 2025, section 3) assigns a complex weight to the nearest fourth root of unity
and scales by the mean magnitude of what was assigned. With U = Re + Im and V = Im − Re, the nearest
root is (sign U, sign V), and the mean of max(|Re|, |Im|) is that of (|U| + |V|) / 2: so it is the
format `binary` of the turned weight [U; V] / 2, whose scale of least squares is a mean magnitude.
normalise turns the weights (fuse_complex_roots_into_matmul.py), which changes no number.

Deviations: one scale an output for both parts, where the paper has one of the real and one of the
imaginary ones for a matrix; with calibration data the codes are those of least output error, unless
--weight-rounding nearest asks for the nearest ones. A weight between two roots, |Re| = |Im|, goes
where `binary` codes 0 as −1, the paper's to the other one in three of four cases; both are as near.
"""

from collections.abc import Callable

import onnx_ir as ir

from qcompile.formats import is_iroots
from qcompile.recipe import Recipe
from qcompile.recurrent import rule_for


def roots_for(recipe: Recipe) -> Callable[[ir.Node], bool]:
    """Whether iroots2 is asked for a product of the user's, so that normalise turns its weight."""

    def is_asked(node: ir.Node) -> bool:
        rule = rule_for(node, recipe)
        if rule is not None and rule.exclude:
            return False
        return is_iroots((rule.weight_format if rule is not None else None) or recipe.weight_format)

    return is_asked
