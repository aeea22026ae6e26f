# SPDX-License-Identifier: Apache-2.0
"""Every builder of the zoo makes a valid model of seeded weights that onnxruntime runs."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.zoo import ZOO
from models.zoo.layers import IR_VERSION, OPSET
from models.zoo.samples import samples
from models.zoo.swin import window_mask
from qcompile.session import open_model, session_options


def run(model: ir.Model, count: int, seed: int) -> list[np.ndarray]:
    session = open_model(model, session_options(1))
    return list(session.run(None, samples(model, count, seed)))


def op_kinds(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


@pytest.mark.parametrize("name", ZOO)
def test_builds_and_runs(name: str) -> None:
    model = ZOO[name].build(tiny=True)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert (model.ir_version, model.graph.opset_imports) == (IR_VERSION, {"": OPSET})
    for value, found in zip(model.graph.outputs, run(model, 3, seed=0), strict=True):
        assert found.shape[0] == 3 and value.shape is not None and found.ndim == len(value.shape)
        assert np.isfinite(found).all() and 0.05 < found.std() < 50


@pytest.mark.parametrize("name", ZOO)
def test_weights_are_seeded(name: str) -> None:
    first, second = (run(ZOO[name].build(tiny=True), 1, seed=0) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name", ["mobilenetv2", "mobilenetv3", "efficientnet", "deit", "tagger", "keyword"]
)
def test_tiny_has_the_ops_of_full(name: str) -> None:
    assert op_kinds(ZOO[name].build(tiny=True)) == op_kinds(ZOO[name].build())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet50", "convnext", "unet", "swin", "bert", "gpt2", "llama", "whisper"]
)
def test_large_models_too(name: str) -> None:
    assert op_kinds(ZOO[name].build(tiny=True)) == op_kinds(ZOO[name].build())


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("gpt2", lambda feed: feed["input_ids"]), ("llama", lambda feed: feed["input_ids"])],
)
def test_decoders_are_causal(name: str, outputs: Callable[[dict], np.ndarray]) -> None:
    model = ZOO[name].build(tiny=True)
    session = open_model(model, session_options(1))
    feed = samples(model, 2, seed=0)
    before = session.run(None, feed)[0]
    outputs(feed)[:, -1] += 1
    after = session.run(None, feed)[0]
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert not np.array_equal(before[:, -1], after[:, -1])


def test_llama_continues_from_its_cache() -> None:
    """Two runs, the second on the first one's cache, give what one run over all tokens gives."""
    model = ZOO["llama"].build(tiny=True)
    session = open_model(model, session_options(1))
    feed = samples(model, 2, seed=0)
    feed |= {n: a[:, :, :0] for n, a in feed.items() if n.startswith("past")}
    feed["position_ids"] = np.broadcast_to(np.arange(8), (2, 8)).copy()
    whole = session.run(None, feed)[0]
    tokens = ("input_ids", "position_ids")
    part = session.run(None, feed | {n: feed[n][:, :5] for n in tokens})
    cache = {v.name: found for v, found in zip(model.graph.outputs, part, strict=True)}
    past = {f"past_{name}": found for name, found in cache.items() if name != "logits"}
    rest = session.run(None, past | {n: feed[n][:, 5:] for n in tokens})[0]
    np.testing.assert_allclose(rest, whole[:, 5:], rtol=1e-4, atol=1e-4)


def test_bert_does_not_see_padding() -> None:
    model = ZOO["bert"].build(tiny=True)
    session = open_model(model, session_options(1))
    feed = samples(model, 2, seed=0)
    feed["attention_mask"][:, -3:] = 0
    before = session.run(None, feed)[0]
    feed["input_ids"][:, -3:] += 1
    after = session.run(None, feed)[0]
    np.testing.assert_array_equal(before[:, :-3], after[:, :-3])


def test_window_mask() -> None:
    mask = window_mask(14, 3)
    assert mask.shape == (1, 4, 1, 49, 49)
    assert not mask[0, 0].any()  # the first window lies inside the image
    # the last one holds four regions of 4 and 3 rows by 4 and 3 columns
    assert (mask[0, 3, 0] == 0).sum() == 16**2 + 2 * 12**2 + 9**2
