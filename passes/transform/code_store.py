# SPDX-License-Identifier: Apache-2.0
"""CodeStore: coded weights by name, computed when read, the latest ones kept up to a budget."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.spec import QuantSpec

_BUDGET_BYTES = 256 << 20


def as_matrix(tensor: ir.TensorProtocol) -> np.ndarray:
    """A weight [N, ...] as [N, K], float32."""
    array = tensor.numpy()
    return np.asarray(array, np.float32).reshape(array.shape[0], -1)


def scale_method(spec: QuantSpec, asked: str | None) -> str:
    """Blocks are searched for the least squared error, whole rows take their extremes.

    The search lowers the weight error of whole rows too, but cost ResNet-20 accuracy at 3 bits
    (docs/results.md).
    """
    return asked or ("mse" if spec.granularity == "block" else "minmax")


class CodeStore:
    """Weights are coded on first use; codes, scales and zero points share one computation."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, CodedWeight] = OrderedDict()
        self._makers: dict[str, Callable[[], CodedWeight]] = {}

    def add(self, name: str, tensor: ir.TensorProtocol, spec: QuantSpec, method: str) -> None:
        """Remember how to code a weight; its tensor is read when needed and not kept."""
        self._makers[name] = lambda: code_weight(as_matrix(tensor), spec, method)

    def get(self, name: str) -> CodedWeight:
        """The coded weight [N, K]."""
        if name not in self._kept:
            self._kept[name] = self._makers[name]()
            while len(self._kept) > 1 and self._bytes() > _BUDGET_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]

    def _bytes(self) -> int:
        return sum(w.codes.nbytes for w in self._kept.values())
