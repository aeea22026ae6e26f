# SPDX-License-Identifier: Apache-2.0
"""Hadamard, and QMatMul that rotates its rows, against numerics (N42): equal floats and codes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from qcompile import runtime_ops
from qcompile.formats import get
from qcompile.numerics.hadamard import Hadamard
from qcompile.numerics.matmul import qmatmul_dynamic, qmatmul_float
from tests.packaging.source_tree import ROOT
from tests.runtime_ops import single_op as one
from tests.runtime_ops.test_refusals import matmul_case, refusal

F32 = TensorProto.FLOAT
BLOCKS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
SIZES = [(b + more, b) for b in BLOCKS for more in (0, 1, b // 2 + 1, b, 2 * b + 1)]
SIZES += [(43, 32), (172, 128), (172, 16), (768, 512), (1000, 8)]


def rows(size: int, lead: tuple[int, ...] = (9,)) -> NDArray[np.float32]:
    """Of very different sizes, some of them 0."""
    rng = np.random.default_rng(size)
    x = rng.standard_normal((*lead, size)) * np.exp(3 * rng.standard_normal((*lead, size)))
    x[rng.random(x.shape) < 0.1] = 0
    return x.astype(np.float32)


def rotated(x: NDArray[np.float32], rotation: Hadamard, threads: int = 1) -> NDArray[np.float32]:
    given = {"K": rotation.size, "hadamard": rotation.block, "hadamard_seed": rotation.seed}
    return one.run("Hadamard", [x], given, [(F32, x.ndim)], threads=threads)[0]


@pytest.mark.parametrize(("size", "block"), SIZES)
def test_floats_are_equal(size: int, block: int) -> None:
    rotation = Hadamard(size, block, size + 1)
    x = rows(size)
    found = rotated(x, rotation)
    np.testing.assert_array_equal(found, rotation.rotate(x))
    x[0, size // 2] += 1  # the twin
    assert (found[0] != rotation.rotate(x)[0]).any()


@pytest.mark.parametrize("lead", [(), (1,), (8,), (17,), (2, 3), (0,), (3, 0), (700,)])
def test_every_number_of_rows(lead: tuple[int, ...]) -> None:
    rotation = Hadamard(172, 128, 7)
    x = rows(172, lead)
    np.testing.assert_array_equal(rotated(x, rotation, threads=2), rotation.rotate(x))


@pytest.mark.parametrize("block", [16, 64, 256, 1024])
def test_integers_are_exact(block: int) -> None:
    """√n is a power of two, and no sum of these reaches 2^24."""
    rotation = Hadamard(2 * block, block, 3)
    x = np.random.default_rng(0).integers(-2000, 2000, (5, 2 * block))
    found = rotated(x.astype(np.float32), rotation)
    np.testing.assert_array_equal(found, rotation.times(x))
    np.testing.assert_array_equal(found * np.sqrt(block), np.rint(found * np.sqrt(block)))


def test_infinity_and_nan_stay_in_their_blocks() -> None:
    x = rows(64, (3,))
    x[0, 3], x[1, 40], x[2, 5:7] = np.nan, np.inf, np.inf
    found = rotated(x, Hadamard(64, 32, 0))
    assert not np.isfinite(found[0, :32]).any() and np.isfinite(found[0, 32:]).all()
    assert np.isfinite(found[1, :32]).all() and not np.isfinite(found[1, 32:]).any()
    np.testing.assert_array_equal(found, Hadamard(64, 32, 0).rotate(x))


@pytest.mark.parametrize("bits", [2, 4, 8, None])
@pytest.mark.parametrize(("size", "block"), [(2, 2), (43, 32), (64, 64), (172, 128), (300, 16)])
@pytest.mark.parametrize("lead", [(1,), (9,), (2, 13), (0,)])
def test_products_rotate_their_rows(
    size: int, block: int, lead: tuple[int, ...], bits: int | None
) -> None:
    rotation = Hadamard(size, block, 5)
    weight = one.random_weight(np.random.default_rng(1), 20, size, get("int4"), 0, "f32")
    kind: dict[str, object] = {"activation": "f32"}
    if bits is not None:
        kind = {"activation": "dynamic", "activation_bits": bits}
    kind |= {"hadamard": block, "hadamard_seed": 5}
    x = rows(size, lead)
    inputs, given = [x, one.pack(weight)], one.weight_attributes(weight) | kind
    found = one.run("QMatMul", inputs, given, [(F32, x.ndim)], threads=2)[0]
    for turned, is_right in ((rotation.rotate(x), True), (x, False)):
        if bits is None:
            value, bound = qmatmul_float(turned, weight, None)
        else:
            value, bound = qmatmul_dynamic(turned, weight, None, bits)
        limit = bound + np.abs(value) * 2.0**-24
        assert bool((np.abs(found - value) <= limit).all()) == (is_right or not x.size)


@pytest.mark.slow
@pytest.mark.parametrize("isa", [i for i in runtime_ops.ISAS if i in ("scalar", "avx2")])
def test_other_instruction_sets_give_the_same(isa: str) -> None:
    arguments = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    chosen = "floats_are_equal or every_number or rotate_their"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QCOMPILE_ISA": isa}
    done = subprocess.run(
        [sys.executable, *arguments, "-k", chosen],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if "this processor and this build run" in done.stdout:
        pytest.skip(f"no {isa} here")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", [3, 1, 128])
def test_refused_blocks(block: int) -> None:
    message = (
        f'"node": hadamard = {block} with K = 64 (docs/numerics.md N42: a power of two, 2 ... K). '
        "Pack the model again with this version of qcompile."
    )
    inputs, attributes = matmul_case(hadamard=block, hadamard_seed=0)
    assert refusal("QMatMul", inputs, attributes, [(F32, 2)]) == f"QMatMul {message}"
    given = {"K": 64, "hadamard": block, "hadamard_seed": 0}
    assert refusal("Hadamard", [inputs[0]], given, [(F32, 2)]) == f"Hadamard {message}"


def test_refused_attributes() -> None:
    x = np.zeros((2, 64), np.float32)
    got = refusal("Hadamard", [x], {"K": 64}, [(F32, 2)])
    rule = "(docs/ops.md: the size of a block). Correct it."
    assert got == f'Hadamard "node": hadamard is 0 or missing {rule}'
    got = refusal("Hadamard", [x], {"K": 32, "hadamard": 32, "hadamard_seed": 0}, [(F32, 2)])
    assert got == (
        'Hadamard "node": X is [2, 64]; K = 32 (docs/ops.md: X [..., K]). Correct the graph.'
    )


def test_static_products_refuse() -> None:
    _, attributes = matmul_case(hadamard=64, hadamard_seed=0, activation="static")
    attributes |= {"scale_format": "none", "x_zero_point": 0, "y_zero_point": 0, "y_max": 255}
    attributes |= {"y_min": 0, "block_size": 0}
    codes = np.zeros((2, 64), np.uint8)
    weight = one.random_weight(np.random.default_rng(0), 20, 64, get("int4"), 0, "none")
    numbers = [np.zeros(20, np.int32), np.ones(20, np.float32)]
    got = refusal(
        "QMatMul", [codes, one.pack(weight), *numbers], attributes, [(TensorProto.UINT8, 2)]
    )
    assert got == (
        'QMatMul "node": hadamard with static activations '
        "(docs/ops.md: X is float where it is rotated). Remove the attribute hadamard."
    )
