# SPDX-License-Identifier: Apache-2.0
"""Products of quantized models that no kernel can run stay as they are, and say why."""

from pathlib import Path

import onnx
import pytest

from qcompile.compile import plan_only
from qcompile.recipe import Recipe
from tests.imported import quantized
from tests.pipeline.nets import cnn


def bias_of_another_domain(model: onnx.ModelProto) -> None:
    back = next(n for n in model.graph.node if n.output[0] == "pointwise.bias")
    back.domain = "com.microsoft"
    del back.attribute[:]
    model.opset_import.add(domain="com.microsoft", version=1)


def odd_groups(model: onnx.ModelProto) -> None:
    conv = next(
        n for n in model.graph.node if n.op_type == "Conv" and n.input[0].startswith("stem")
    )
    next(a for a in conv.attribute if a.name == "group").i = 7


@pytest.mark.parametrize(
    ("damage", "node", "reason"),
    [
        (
            bias_of_another_domain,
            "/pointwise/Conv",
            "its bias pointwise.bias is computed at run time; it stays as in the model",
        ),
        (
            odd_groups,
            "/depthwise/Conv",
            "it has 16 outputs in 7 groups; it stays as in the model",
        ),
    ],
)
def test_reason(damage, node: str, reason: str, tmp_path: Path) -> None:
    path = quantized.static(cnn(), tmp_path, "qdq", "u8", "s8", per_channel=True)
    model = onnx.load(path)
    damage(model)
    onnx.save(model, path)
    plan, _ = plan_only(path, "cpu", Recipe())
    assert plan.nodes[node].reason == reason
