# SPDX-License-Identifier: Apache-2.0
"""One function for every way to round: better with each step, held-out inputs decide."""

import numpy as np
import pytest

from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import scale_method
from qcompile.passes.transform.gptq import output_error
from qcompile.passes.transform.rounding import DEFAULT, ROUNDINGS, quantize, rounding_of
from qcompile.recipe import WEIGHT_ROUNDINGS
from qcompile.spec import QuantSpec
from tests.passes.transform.test_gptq import SPECS, K, N, correlated, second_moment


def test_every_word_of_a_recipe_has_a_way() -> None:
    assert tuple(ROUNDINGS) == WEIGHT_ROUNDINGS
    assert rounding_of(None) is ROUNDINGS[DEFAULT]
    assert rounding_of("gptq").names == ["gptq"]


@pytest.mark.parametrize("text", SPECS)
def test_each_way_is_as_good_as_the_one_before(text: str) -> None:
    spec = QuantSpec.parse(text)
    weight = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    rows = correlated(1, rows=3000)
    hessian, held = second_moment(rows[:2000]), rows[2000:]
    found = {
        word: quantize(weight, hessian, spec, held, rounding=ROUNDINGS[word])
        for word in ("nearest", "gptq", "descent")
    }
    errors = [each.error for each in found.values()]
    assert errors == sorted(errors, reverse=True)
    assert not found["nearest"].is_better
    assert found["descent"].is_better
    for each in found.values():
        assert each.error == output_error(weight, each.weight, held)
        assert each.nearest_error == found["nearest"].error
    method = scale_method(spec, None)
    assert np.array_equal(found["nearest"].weight.codes, code_weight(weight, spec, method).codes)


def test_held_out_inputs_decide() -> None:
    spec = QuantSpec.parse("int3/axis(axis=0)/sym/f32")
    weight = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    others = np.random.default_rng(1).standard_normal((2000, 1, K)).astype(np.float32)
    hessian = second_moment(correlated(2))  # of inputs that the layer never gets
    found = quantize(weight, hessian, spec, others, rounding=ROUNDINGS["gptq"])
    assert not found.is_better
    assert found.error == found.nearest_error
