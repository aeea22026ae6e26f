# SPDX-License-Identifier: Apache-2.0
"""Teacher: the float model says what the outputs of the quantized network should be."""

import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.data import Feed
from qcompile.division import Division
from qcompile.graph import attribute, is_op
from qcompile.reverse import Tape
from qcompile.session import run_float, with_outputs
from qcompile.tuning_loss import Loss

_FEWEST_SCORES = 8


def losses_of_tape(copy: ir.Model, normalised: ir.Model, tape: Tape) -> dict[str, Loss]:
    """Each float output, or what its Softmax reads, with its name in the float model."""
    floats = {n.name: n for n in normalised.graph}
    found = {}
    for value in copy.graph.outputs:
        name, node = value.name or "", value.producer()
        if name not in tape.outputs:
            continue
        twin = floats.get(node.name) if node is not None and is_op(node, "Softmax") else None
        if node is not None and twin is not None:
            logits, theirs = node.inputs[0], twin.inputs[0]
            assert logits is not None and theirs is not None
            axis = int(attribute(node, "axis", -1))
            found[logits.name or ""] = Loss(theirs.name or "", axis, has_scale=False)
        else:
            found[name] = Loss(name, -1 if _is_scores(value) else None, has_scale=True)
    tape.outputs = list(found)
    return found


def _is_scores(value: ir.Value) -> bool:
    """Whether an output may be logits of every position: many numbers from a dense product.

    With one distribution a sample KL is too noisy on the held-out ones: ResNet-20 w4a4, where the
    squared error gains, gained nothing.
    """
    if value.shape is None or len(value.shape) < 3:
        return False
    node, count = value.producer(), value.shape[-1]
    while is_op(node, "DequantizeLinear", "QuantizeLinear", "Clip", "Add"):
        assert node is not None
        sources = [v.producer() for v in node.inputs if v is not None and v.producer() is not None]
        node = sources[0] if len(sources) == 1 or is_op(node, "Clip") else None
    return is_op(node, "MatMul", "Gemm") and isinstance(count, int) and count >= _FEWEST_SCORES


class Teacher:
    """The float model: what the outputs should be, and what does not depend on weights."""

    def __init__(
        self, model: ir.Model, losses: dict[str, Loss], entries: list[str], division: Division
    ) -> None:
        self.losses = losses
        given = {v.name for v in model.graph.inputs}
        self._entries = [name for name in entries if name not in given]
        wanted = [loss.target for loss in losses.values()]
        self._names = list(dict.fromkeys([*wanted, *self._entries]))
        self._session: ort.InferenceSession = division.open(with_outputs(model, self._names))

    def answer(self, feed: Feed) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Entries, inputs among them, and by the tape's output what it should be."""
        ran = dict(zip(self._names, run_float(self._session, self._names, feed), strict=True))
        wanted = {name: ran[loss.target] for name, loss in self.losses.items()}
        return feed | {name: ran[name] for name in self._entries}, wanted
