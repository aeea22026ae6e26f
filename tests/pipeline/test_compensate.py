# SPDX-License-Identifier: Apache-2.0
"""Weights are compensated where data shows that it helps; verification sees a wrong one."""

import tracemalloc
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from qcompile import compensate as stage
from qcompile import targets
from qcompile.annotate import annotate
from qcompile.calibrate import calibrate
from qcompile.compensate import compensate_weights
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.errors import InputError
from qcompile.graph import constant
from qcompile.memory import BASE_BYTES, Budget
from qcompile.moments import Moments, Source
from qcompile.normalise import normalise
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import CodeStore, as_matrix, scale_method
from qcompile.passes.transform.correct_bias import CorrectBias
from qcompile.passes.transform.rounding import ROUNDINGS, Rounding
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.transform import transform
from qcompile.verify_compensated import check_compensated
from qcompile.verify_weights import check_weights
from tests.passes.stages import with_weights

NET = """f (float[b,6,8,8] x, float w, float d, float g, float k, float m, float a)
  => (float[b,5] y)
{ c = Conv <pads = [1,1,1,1]> (x, w)   r = Relu (c)
  e = Conv <group = 8, pads = [1,1,1,1], strides = [2,2]> (r, d)   s = Relu (e)
  i = Conv <group = 2> (s, g)   p = GlobalAveragePool (i)   f = Flatten (p)
  n = Gemm <transB = 1> (f, k)   t = Relu (n)   h = MatMul (t, m)   y = Add (h, a) }"""
SHAPES = {"w": (8, 6, 3, 3), "d": (8, 1, 3, 3), "g": (12, 4, 1, 1), "k": (10, 12), "m": (10, 5)}
WEIGHTS = {"w", "d", "g", "k", "m_nk"}
TIED = """f (int64[b,t] x, float w, float u) => (float[b,t,40] y)
{ e = Gather (w, x)   h = MatMul (e, u)   o = Transpose <perm = [1, 0]> (w)   y = MatMul (h, o) }"""
SHARED = """f (float[b,6] x, float w) => (float[b,6] y)
{ h = MatMul (x, w)   r = Relu (h)   y = MatMul (r, w) }"""


def correlated(dims: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Samples whose channels depend on each other."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(dims) + rng.standard_normal((dims[0], 1, *dims[2:]))
    return x.astype(np.float32)


class Found:
    """A net with its statistics, compensated."""

    def __init__(
        self,
        text: str,
        preset: str,
        feed: dict[str, NDArray],
        budget: Budget | None = None,
        **recipe,
    ) -> None:
        shapes = {k: v for k, v in recipe.items() if isinstance(v, tuple)}
        asked = {k: v for k, v in recipe.items() if k not in shapes}
        self.recipe = Recipe(preset=preset, edge_bits=3, **asked)
        self.model = normalise(with_weights(text, **shapes))
        batch = Batch.of(list(self.model.graph.inputs))
        self.data = Data(list(batch.split(feed)), batch)
        self.plan: Plan = annotate(self.model, self.recipe, targets.get("cpu"), has_data=True)
        self.before = calibrate(self.model, self.plan, self.recipe, self.data)
        self.division = Division(budget or Budget())
        self.stats = self.run()

    def run(self, data: Data | None = None, **recipe) -> Stats:
        """Compensation with another recipe or other data."""
        chosen, asked = data or self.data, replace(self.recipe, **recipe)
        return compensate_weights(self.model, self.plan, asked, chosen, self.before, self.division)

    def quantized(self, stats: Stats | None = None) -> ir.Model:
        return transform(self.model, self.plan, stats or self.stats, self.recipe)

    def nearest(self, name: str) -> NDArray[np.int16]:
        spec = next(p.weight for p in self.plan.nodes.values() if p.weight_name == name)
        tensor = self.model.graph.initializers[name].const_value
        return code_weight(as_matrix(tensor), spec, scale_method(spec, None)).codes


def cnn(preset: str = "w3a8", **recipe) -> Found:
    return Found(NET, preset, {"x": correlated((96, 6, 8, 8))}, a=(5,), **SHAPES, **recipe)


@pytest.mark.parametrize(
    ("preset", "weights"),
    [("w3a8", WEIGHTS), ("w3a8-dynamic", WEIGHTS), ("w3a16", {"k", "m_nk"})],  # a16 has no Conv
)
def test_errors_are_smaller_and_verification_agrees(preset: str, weights: set[str]) -> None:
    found = cnn(preset)
    assert found.stats.compensated.keys() <= weights
    assert len(found.stats.compensated) >= len(weights) - 1
    quantized = found.quantized()
    for name, each in found.stats.compensated.items():
        assert each.error < each.nearest_error
        assert not np.array_equal(each.read().codes, found.nearest(name))
        codes = constant(quantized.graph.initializers[f"{name}_codes"])
        assert np.array_equal(codes.reshape(len(codes), -1), each.read().codes)
    checks = check_compensated(found.model, quantized, found.stats)
    checks += check_weights(found.model, quantized, found.plan, found.stats)
    assert [c.passed for c in checks] == [True] * 3
    assert checks[0].count + checks[2].count == len(weights)


@pytest.mark.parametrize("reader", ["Sqrt", "Neg"])
def test_codes_and_bias_stay_where_a_sign_matters(reader: str) -> None:
    text = f"""f (float[b,16] x, float w, float a) => (float[b,8] y)
    {{ p = MatMul (x, w)   s = Add (p, a)   y = {reader} (s) }}"""
    feed = {"x": correlated((96, 16))}
    found = Found(text, "w3a8-dynamic", feed, w=(16, 8), a=(8,))
    assert ("w_nk" in found.stats.compensated) == (reader == "Neg")
    work = Work(found.plan, found.before, found.recipe)
    each = CorrectBias(work, CodeStore(work))
    assert each(found.model.clone()).modified == (reader == "Neg")
    why = "Sqrt reads its result, which could become negative"
    assert [r.reason for r in each.refusals] == ([why] if reader == "Sqrt" else [])


@pytest.mark.parametrize("name", ["w", "d", "g", "k", "m_nk"])
def test_verification_sees_one_shifted_code(name: str) -> None:
    found = cnn()
    quantized = found.quantized()
    value = quantized.graph.initializers[f"{name}_codes"]
    codes = constant(value).copy()
    codes.flat[0] += 1 - 2 * (codes.flat[0] > 0)
    value.const_value = ir.tensor(codes, name=value.name)
    checks = check_compensated(found.model, quantized, found.stats)
    assert not all(c.passed for c in checks)
    assert name in " ".join(c.worst for c in checks if not c.passed)


def test_nearest_and_no_data_leave_the_statistics() -> None:
    found = cnn()
    assert found.run(weight_rounding="nearest") is found.before
    assert found.run(weight_rounding="gptq").compensated.keys() == found.stats.compensated.keys()
    empty = compensate_weights(
        found.model, found.plan, found.recipe, None, found.before, found.division
    )
    assert empty is found.before
    asked = replace(found.recipe, weight_rounding="gptq")
    with pytest.raises(InputError, match="gptq needs inputs: give --calibration-data"):
        compensate_weights(found.model, found.plan, asked, None, found.before, found.division)


def test_worse_codes_are_not_taken(monkeypatch) -> None:
    found = cnn()

    def spoil(weight, nearest, *_, **__):
        return replace(nearest, codes=np.zeros_like(nearest.codes))

    for rounders in ((spoil,), (spoil, spoil), (lambda *_, **__: None,)):
        monkeypatch.setitem(ROUNDINGS, "descent", Rounding(rounders))
        assert found.run().compensated == {}
    monkeypatch.undo()
    assert found.run().compensated != {}


def test_the_bias_takes_back_what_the_compensated_codes_leave() -> None:
    found = cnn("w3a8-dynamic")
    quantized = found.quantized()
    name = "m_nk"
    weight = as_matrix(found.model.graph.initializers[name].const_value).astype(np.float64)
    mean = found.before.means["t"]
    old = constant(found.model.graph.initializers["a"]).astype(np.float64)
    new = constant(quantized.graph.initializers["h_bias"])
    left = old - (found.stats.compensated[name].read().decode() - weight) @ mean
    assert (np.abs(new - left) <= 2.0**-23 * np.abs(left) + 2.0**-40).all()
    uncompensated = constant(found.quantized(found.before).graph.initializers["h_bias"])
    assert (np.abs(uncompensated - left) > 2.0**-20).any()


def test_a_small_budget_makes_groups_and_the_same_codes() -> None:
    whole = cnn()
    sites = stage.sites_of(whole.model, whole.plan, whole.recipe)
    assert len(list(stage.in_groups(sites, 1 << 20))) == 1
    first = sum(Moments.bytes_of(site.sources[0]) for site in sites[:2])
    groups = list(stage.in_groups(sites, first))
    assert [[s.weight.name for s in g] for g in groups] == [["w", "d"], ["g", "k", "m_nk"]]
    whole.division = Division(Budget(BASE_BYTES))  # the least: 16 MiB
    assert whole.run().compensated.keys() == whole.stats.compensated.keys()


def test_weights_that_need_more_memory_keep_their_nearest_codes(monkeypatch) -> None:
    monkeypatch.setattr(stage, "_SOLUTION_BYTES", (16 << 20) // 54**2 + 1)
    small = cnn(budget=Budget(BASE_BYTES))
    assert "w" not in small.stats.compensated  # 54 columns
    assert "k" in small.stats.compensated


def test_moments_of_many_layers_take_bounded_memory(monkeypatch) -> None:
    layers, width = 8, 192
    body = "  ".join(f"h{i + 1} = MatMul (h{i}, w{i})" for i in range(layers))
    names = ", ".join(f"float w{i}" for i in range(layers))
    text = f"f (float[b,{width}] h0, {names}) => (float[b,{width}] h{layers}) {{ {body} }}"
    shapes = {f"w{i}": (width, width) for i in range(layers)}
    found = Found(
        text, "w8a16", {"h0": correlated((512, width))}, weight_rounding="nearest", **shapes
    )
    monkeypatch.setitem(ROUNDINGS, "gptq", Rounding((lambda *_, **__: None,)))

    def peak(num_bytes: int) -> int:
        monkeypatch.setattr(stage, "_MOMENTS_BYTES", num_bytes)
        tracemalloc.start()
        found.run(weight_rounding="gptq")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    one, all_of_it = 4 * width * width, Moments.bytes_of(Source("h0", width))
    spared = peak(1 << 30) - peak(2 * all_of_it)
    # the moments of six layers less
    assert spared >= 6 * one
    assert peak(1 << 30) - peak(8 * all_of_it) < one  # all eight fit: nothing spared


def test_a_table_that_a_product_reads_too_serves_both() -> None:
    ids = np.random.default_rng(0).integers(0, 40, (64, 12))
    found = Found(TIED, "w4a16", {"x": ids}, w=(40, 32), u=(32, 32))
    assert found.stats.compensated.keys() == {"w", "u_nk"}
    table = as_matrix(found.model.graph.initializers["w"].const_value).astype(np.float64)
    held = found.stats.compensated["w"].inputs.read()[:, 0]
    rows, products = held[-32:], held[:-32]
    assert np.array_equal(rows, rows[0, 0] * np.eye(32, dtype=np.float32))
    # both count the same: 32 · 40 products of float32 on either side
    share = np.square(rows @ table.T).sum() / np.square(products @ table.T).sum()
    assert abs(share - 1) <= 2 * 32 * 40 * 2.0**-24
    assert found.run(weight_rounding="gptq").compensated["w"].error < (
        found.stats.compensated["w"].nearest_error
    )


def test_a_table_that_only_gather_reads_keeps_its_nearest_codes() -> None:
    text = """f (int64[b,t] x, float w, float u) => (float[b,t,32] y)
    { e = Gather (w, x)   y = MatMul (e, u) }"""
    ids = np.random.default_rng(0).integers(0, 40, (64, 12))
    found = Found(text, "w4a16", {"x": ids}, w=(40, 32), u=(32, 32))
    assert found.stats.compensated.keys() == {"u_nk"}


def test_a_weight_of_two_products_is_compensated_for_both() -> None:
    found = Found(SHARED, "w3a16", {"x": correlated((400, 6))}, w=(6, 6))
    (site,) = stage.sites_of(found.model, found.plan, found.recipe)
    assert [s.value for s in site.sources] == ["x", "r"]
    assert len(found.stats.compensated) == 1


def test_inputs_that_are_not_finite_leave_the_nearest_codes() -> None:
    x = correlated((96, 6, 8, 8))
    x[3, 0, 0, 0] = np.inf
    found = Found(NET, "w3a16", {"x": x}, a=(5,), **SHAPES, bias_correction=False)
    assert found.stats.compensated == {}
