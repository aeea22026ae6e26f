# SPDX-License-Identifier: Apache-2.0
"""lower: rotations: a rotation of the artifact that is not the QDQ graph's is found."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.numerics.hadamard import Hadamard
from qcompile.verify_rotation import check_rotations, rotation_bound
from tests.passes.lower.test_lower_rotation import ONE, TWO, lowered


@pytest.mark.parametrize("body", [ONE, TWO])
@pytest.mark.parametrize("rotation", [Hadamard(64, 64, 0), Hadamard(43, 32, 1)], ids=str)
def test_equal_rotations_pass_and_another_seed_does_not(body: str, rotation: Hadamard) -> None:
    quantized, made = lowered(body, rotation, "w4a4-dynamic")
    runs = [{"x": np.random.default_rng(i).standard_normal((3, 3, rotation.size))} for i in (0, 1)]
    runs = [{"x": run["x"].astype(np.float32)} for run in runs]
    (check,) = check_rotations(quantized, made, runs)
    assert check.passed and check.rung == "lower: rotations" and 0 < check.measured <= 1
    node = next(n for n in made.graph if "hadamard" in n.attributes)
    node.attributes["hadamard_seed"] = ir.AttrInt64("hadamard_seed", rotation.seed + 1)
    (check,) = check_rotations(quantized, made, runs)
    assert not check.passed


def test_without_rotations_there_is_no_check() -> None:
    quantized, made = lowered(ONE, Hadamard(64, 64, 0), "w4a4-dynamic")
    for node in made.graph:
        node.attributes.pop("hadamard", None)
    assert check_rotations(quantized, made, []) == []


def test_one_code_of_a_rounding_more_is_beyond_the_bound() -> None:
    """The bound is far below what one wrong sign changes."""
    _, made = lowered(ONE, Hadamard(64, 64, 0), "w4a4-dynamic")
    (node,) = made.graph
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    wrong = x.copy()
    wrong[:, 0] *= -1
    gap = np.abs(Hadamard(64, 64, 0).rotate(x) - Hadamard(64, 64, 0).rotate(wrong))
    assert (gap > 100 * rotation_bound(node, x)).mean() > 0.9
