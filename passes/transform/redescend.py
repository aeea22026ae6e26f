# SPDX-License-Identifier: Apache-2.0
"""Redescend: descent again, on the inputs that the quantized network before the layer gives.

Of the layer's error E[‖W x + b − Ŵ x̂ − b̂‖²], x the float network's input and x̂ the quantized one,
everything but a constant is E[((Ŵ − V) x̂)²] for

    V = W + E[(y − W x̂) x̂ᵀ] (E[x̂ x̂ᵀ] + λ I)⁻¹,        y = W x

the weight that would make up for the errors of its input (QuartDepth, Shen et al. 2025, its weight
compensation; λ = 0.01 of the mean diagonal). So V takes the place of W, and the second moments of x̂
that of those of x, for any way to round; here for descent (descend.py). With a bias the moments are
centred and the bias is what is left of the mean. The layer's Relu does not count.
"""

from dataclasses import replace

import numpy as np

from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import scale_method
from qcompile.passes.transform.descend import descend
from qcompile.passes.transform.gptq import DAMPING
from qcompile.passes.transform.layer_rows import LayerRows, Real32, Rebuilt, Setting


def redescend(
    weight: Real32, start: CodedWeight, bias: Real32 | None, rows: LayerRows, setting: Setting
) -> Rebuilt:
    """Codes and scales of a weight [N, K], and the bias [N]; `start` where H has no use."""
    rows = replace(rows, x=rows.inputs(), grid=None)
    x, y = rows.x, rows.y
    if bias is not None:
        x = x - x.mean(1, keepdims=True)
        y = y - y.mean(1, keepdims=True)
    hessian = (x.swapaxes(1, 2) @ x) / np.float32(max(rows.num, 1))
    wanted = compensated(weight, hessian, x, y)
    spec = setting.spec
    nearest = code_weight(wanted, spec, scale_method(spec, setting.method), kept=start.kept)
    found = descend(wanted, nearest, hessian, spec, is_signed=setting.is_signed) or start
    if bias is not None:
        bias = rows.mean_left(found)
    return Rebuilt(found, bias)


def compensated(weight: Real32, hessian: Real32, x: Real32, y: Real32) -> Real32:
    """V [N, K] for inputs x [groups, num, K] with these second moments and outputs y."""
    groups, num, k = x.shape
    matrix = weight.reshape(groups, -1, k).astype(np.float64)
    left = y - x @ matrix.swapaxes(1, 2).astype(np.float32)
    cross = (left.swapaxes(1, 2) @ x).astype(np.float64) / max(num, 1)
    wide = hessian.astype(np.float64)
    diagonal = np.einsum("gkk->gk", wide)  # a view
    diagonal += DAMPING * diagonal.mean(1, keepdims=True) + np.finfo(np.float64).tiny
    moved = np.linalg.solve(wide, cross.swapaxes(1, 2)).swapaxes(1, 2)
    return np.asarray((matrix + moved).reshape(weight.shape), np.float32)
