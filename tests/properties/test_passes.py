# SPDX-License-Identifier: Apache-2.0
"""What holds for every pass of the registry lists."""

import re
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from qcompile.passes import LOWER_CPU, LOWER_INTEGER, LOWER_ORT, NORMALISE, TRANSFORM
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from tests.passes.graphs import lines_of, run
from tests.passes.stages import Staged, random_feed, run_passes, staged, with_weights

ROOT = Path(__file__).parents[2]
VERBS = (
    "convert",
    "fold",
    "fuse",
    "split",
    "remove",
    "insert",
    "move",
    "round",
    "correct",
    "equalise",
    "lower",
    "merge",
)
NO_WORK = Work(Plan("", "", {}), Stats(), Recipe())
LISTS = {
    "normalise": NORMALISE(),
    "transform": TRANSFORM(NO_WORK),
    "lower": [*LOWER_CPU(), *LOWER_ORT(), *LOWER_INTEGER()],
}
OURS = {
    type(each): type(each).__module__
    for passes in LISTS.values()
    for each in passes
    if type(each).__module__.startswith("qcompile")
}
EACH = pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)

CNN = """f (float[b,4,8,8] x, float w, float u, float d, float k, float h, float j, float g,
 float i, float q, float v) => (float[b,5] y)
{ c = Conv <pads = [1,1,1,1]> (x, w, k)   n = BatchNormalization (c, g, i, q, v)   r = Relu (n)
  e = Conv <pads = [1,1,1,1], group = 4> (r, d)   a = Add (e, r)   s = Relu (a)
  m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (s)   o = Conv (m, u, k)
  p = GlobalAveragePool (o)   f = Flatten (p)   l = MatMul (f, h)   y = Add (j, l) }"""
CNN_SHAPES = {
    **{"w": (4, 4, 3, 3), "u": (4, 4, 1, 1), "d": (4, 1, 3, 3), "k": (4,), "h": (4, 5), "j": (5,)},
    **{"g": (4,), "i": (4,), "q": (4,), "v": (4,)},
}
TEXT_MODEL = """f (int64[b,3] x, float w, float u, float h, float k)
=> (float[b,3,40] y, float[b,3,5] z)
{ e = Gather (w, x)   m = MatMul (e, u)   a = Add (k, m)   r = Relu (a)   y = Identity (r)
  t = Transpose <perm = [1, 0]> (w)   z = MatMul (r, t)   dead = MatMul (e, h) }"""
TEXT_SHAPES = {"w": (5, 40), "u": (40, 40), "h": (40, 7), "k": (40,)}


def model(name: str) -> ir.Model:
    """A CNN with a residual and every pool, or an embedding with a tied head."""
    if name == "cnn":
        net = with_weights(CNN, **CNN_SHAPES)
        variance = net.graph.initializers["v"].const_value.numpy()
        net.graph.initializers["v"].const_value = ir.tensor(abs(variance) + 1, name="v")
        return net
    return with_weights(TEXT_MODEL, **TEXT_SHAPES)


RUNS = [
    (name, target, preset)
    for name in ("cnn", "text")
    for target in ("cpu", "ort", "integer")
    for preset in ("w8a8", "w8a8-dynamic", "w4a16")
    if (name, preset) != ("cnn", "w4a16") or target == "cpu"
]


def stages(
    name: str, target: str, preset: str
) -> list[tuple[ir.Model, list[ir.passes.InPlacePass]]]:
    """(the model before, the passes) of every stage."""
    found: Staged = staged(model(name), preset, "ort" if target == "ort" else "cpu")
    lower = {"cpu": LOWER_CPU, "ort": LOWER_ORT, "integer": LOWER_INTEGER}[target]
    return [
        (model(name), NORMALISE()),
        (found.normalised, TRANSFORM(found.work)),
        (found.quantized, lower()),
    ]


@pytest.mark.parametrize(("name", "target", "preset"), RUNS)
def test_a_second_run_changes_nothing(name: str, target: str, preset: str) -> None:
    for before, passes in stages(name, target, preset):
        current = before.clone()
        for each in passes:
            each(current)
            lines = lines_of(current)
            each(current)
            assert lines_of(current) == lines, each


@pytest.mark.parametrize(("name", "target", "preset"), RUNS)
def test_interface_is_kept_and_graphs_are_valid(name: str, target: str, preset: str) -> None:
    for before, passes in stages(name, target, preset):
        current = before.clone()
        for each in passes:
            each(current)
            assert [v.name for v in current.graph.inputs] == ["x"]
            wanted = [v.name for v in before.graph.outputs]
            assert [v.name for v in current.graph.outputs] == wanted
            names = [v.name for n in current.graph for v in n.outputs]
            assert len(set(names)) == len(names)
            proto = ir.to_proto(current)
            onnx.checker.check_model(proto, full_check=not has_custom_ops(current))


def has_custom_ops(current: ir.Model) -> bool:
    """Whether shape inference would stop."""
    return any(n.domain not in ("", "ai.onnx") for n in current.graph)


@pytest.mark.parametrize("name", ["cnn", "text"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_normalise_keeps_the_numbers(name: str, seed: int) -> None:
    source = model(name)
    feed = random_feed(source, seed)
    normalised = run_passes(source, *NORMALISE())
    # Sums of up to 40 products, 8 layers: each adds (K + 4) units of the magnitudes.
    wide = run(source, feed)
    for left, right in zip(wide, run(normalised, feed), strict=True):
        limit = 8 * (40 + 4) * 2.0**-23 * abs(left).max()
        assert (abs(left - right) <= limit).all()
        assert (abs(left * (1 + 4 * limit / abs(left).max()) - right) > limit).any()


@EACH
def test_file_class_and_test_have_one_name(kind: type[ir.passes.InPlacePass]) -> None:
    stage, name = OURS[kind].split(".")[-2:]
    words = name.split("_")
    assert kind.__name__ == "".join(word.capitalize() for word in words)
    assert words[0] in VERBS
    assert (ROOT / "tests" / "passes" / stage / f"test_{name}.py").is_file()
    assert kind.stage == stage


def test_every_pass_file_is_in_a_list() -> None:
    listed = set(OURS.values())
    for stage in LISTS:
        for path in (ROOT / "passes" / stage).glob("*.py"):
            name = f"qcompile.passes.{stage}.{path.stem}"
            has_pass = (
                "ir.passes.InPlacePass)" in path.read_text() or "(NodePass)" in path.read_text()
            )
            assert (name in listed) == has_pass, name


@EACH
def test_docstring_shows_before_after_and_refusals(kind: type[ir.passes.InPlacePass]) -> None:
    text = sys.modules[kind.__module__].__doc__
    assert re.search(r"\n\nBefore:\n {4}\S(.|\n)*\nAfter:\n {4}\S(.|\n)*\nRefuses: \S", text)
