# SPDX-License-Identifier: Apache-2.0
"""What values keep of BatchNormalizations is true of the normalised model, whatever was folded."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.normalise import normalise
from qcompile.passes.normalise import fold_affine_into_product
from qcompile.passes.normalise.channel_statistics import statistics_of
from tests.pipeline.batch_norm_nets import NETS, fitted, residual, values_of
from tests.pipeline.nets import Net

EACH = pytest.mark.parametrize("made", NETS, ids=lambda made: made.__name__)


def largest_error(made: Callable[[], Net]) -> tuple[float, float, int]:
    """The largest difference from the data's statistics, its bound, and how many values have some.

    The bound: two f32 evaluations of sums of K products differ by at most K · 2^-23 · Σ |products|,
    and a layer scales what it is given by at most Σ |w|; K and the weights those of the largest.
    """
    proto, x = fitted(made())
    model = normalise(ir.from_proto(proto))
    known = [v for n in model.graph for v in n.outputs if statistics_of(v) is not None]
    known += [v for v in model.graph.inputs if statistics_of(v) is not None]
    names = [v.name or "" for v in known]
    found = values_of(ir.to_proto(model), {"x": x}, names)
    worst = 0.0
    for value, array in zip(known, found, strict=True):
        kept = statistics_of(value)
        assert kept is not None
        wide, axes = array.astype(np.float64), tuple(i for i in range(array.ndim) if i != 1)
        errors = (wide.mean(axes) - kept.mean, wide.std(axes) - kept.deviation)
        worst = max(worst, *(float(np.abs(e).max()) for e in errors))
    weights = [v.const_value.numpy() for v in model.graph.initializers.values()]
    rows = [w.reshape(len(w), -1) for w in weights if w.ndim > 1 and w.dtype.kind == "f"]
    K = max(w.shape[1] for w in rows)
    gain = max(np.abs(w).sum(axis=1).max() for w in rows)
    return worst, float(K * 2.0**-23 * gain * max(np.abs(a).max() for a in found)), len(known)


@EACH
def test_they_are_those_of_the_data(made: Callable[[], Net]) -> None:
    worst, bound, count = largest_error(made)
    assert worst <= bound < 0.05
    assert count >= sum(n.op_type == "BatchNormalization" for n in made().nodes)


def test_a_factor_that_was_forgotten_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_affine_into_product, "change", lambda *_: None)
    worst, bound, _ = largest_error(residual)
    assert worst > bound
