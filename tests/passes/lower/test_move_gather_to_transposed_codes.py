# SPDX-License-Identifier: Apache-2.0
"""Target ort: a table that is also the weight of an 8-bit product is stored once."""

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from qcompile.passes import LOWER_ORT
from qcompile.passes.lower.move_gather_to_transposed_codes import MoveGatherToTransposedCodes
from tests.passes.graphs import assert_left_alone, run
from tests.passes.stages import run_passes, staged, with_weights

K = 64


def tied(n: int, dims: str = "b") -> str:
    return f"""f (int64[{dims}] i, float w) => (float[{dims},{n}] y, float[{dims},{K}] e)
    {{ e = Gather (w, i)   t = Transpose <perm = [1, 0]> (w)   y = MatMul (e, t) }}"""


@pytest.mark.parametrize("n", [5, 20, 32])
@pytest.mark.parametrize("dims", ["b", "b,3"])
@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
def test_the_table_lies_there_once(preset: str, dims: str, n: int) -> None:
    found = staged(with_weights(tied(n, dims), w=(n, K)), preset, "ort")
    lowered = run_passes(found.quantized, *LOWER_ORT())
    others = (p for p in LOWER_ORT() if p.name != "move_gather_to_transposed_codes")
    plain = run_passes(found.quantized, *others)
    tables = [v.const_value for v in lowered.graph.initializers.values()]
    large = {t.tobytes() for t in tables if t.size >= n * K}
    assert len(large) == 1  # equal bytes of two names are written once
    first = np.full_like(found.feed["i"], -n)
    for i in (found.feed["i"], first, first + n - 1):
        for got, expected in zip(run(lowered, {"i": i}), run(plain, {"i": i}), strict=True):
            assert np.array_equal(got, expected)
        assert not np.array_equal(run(lowered, {"i": i})[1], run(plain, {"i": (i + 1) % n})[1])


@pytest.mark.parametrize("wrong", [20, 31, -21])
def test_an_index_outside_is_still_refused(wrong: int) -> None:
    """Also one that the zeros behind the codes would answer."""
    found = staged(with_weights(tied(20), w=(20, K)), "w8a8", "ort")
    lowered = run_passes(found.quantized, *LOWER_ORT())
    with pytest.raises(InvalidArgument, match="out of data bounds"):
        run(lowered, {"i": np.array([wrong])})


@pytest.mark.parametrize(
    "text",
    [
        "f (int64[2] i) => (int8[2,2] y) <int8[2,2] w = {1, 2, 3, 4}> { y = Gather (w, i) }",
        "f (float[4] x) => (float[1] y) <int64[1] i = {1}> { y = Gather (x, i) }",
    ],
    ids=["no product has the codes", "activations"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(MoveGatherToTransposedCodes(), text)


def test_codes_that_something_else_reads_are_refused() -> None:
    found = staged(with_weights(tied(5), w=(5, K)), "w8a8-dynamic", "ort")
    before = [p for p in LOWER_ORT() if p.name not in ("remove_unused", "split_shared_weight")]
    each = next(p for p in before if p.name == "move_gather_to_transposed_codes")
    run_passes(found.quantized, *before)
    (refusal,) = each.refusals
    assert refusal.reason == "something else reads the codes as they are"
