# SPDX-License-Identifier: Apache-2.0
"""CodeStore: coded weights by name, computed when read, above a budget kept in a file."""

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

import numpy as np
import onnx_ir as ir

from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.array_file import ArrayFile
from qcompile.passes.transform.stats import Work
from qcompile.spec import QuantSpec


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
    """Weights are coded on first use, once; those above the budget wait in a file."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._done: dict[str, CodedWeight] = {}
        self._makers: dict[str, Callable[[], CodedWeight]] = {}
        self._file: ArrayFile | None = None
        self._kept_bytes = 0
        self._lock = Lock()  # rungs of verify read weights in threads

    def add(self, name: str, tensor: ir.TensorProtocol, spec: QuantSpec) -> None:
        """Remember how to code a weight: as the data says, else to the nearest code.

        Its tensor is read when needed and not kept.
        """
        compensated = self.work.stats.compensated.get(name)
        method = scale_method(spec, self.work.recipe.weight_scale_method)
        self._makers[name] = (
            (lambda: self._placed(code_weight(as_matrix(tensor), spec, method)))
            if compensated is None
            else compensated.read
        )

    def keep(self, name: str, read: Callable[[], CodedWeight]) -> None:
        """Remember where to read a weight that is in codes already."""
        self._makers[name] = lambda: self._placed(read())

    def get(self, name: str) -> CodedWeight:
        """The coded weight [N, K]."""
        with self._lock:
            if name not in self._done:
                self._done[name] = self._makers[name]()
            return self._done[name]

    def _placed(self, weight: CodedWeight) -> CodedWeight:
        """The weight in memory while the budget lasts, else mapped from the file."""
        self._kept_bytes += weight.codes.nbytes
        if self._kept_bytes <= self.work.budget.kept_bytes:
            return weight
        self._kept_bytes -= weight.codes.nbytes
        file = self._file = self._file or ArrayFile()

        point = None if weight.zero_point is None else file.put(weight.zero_point).read()
        scale = None if weight.scale is None else file.put(weight.scale).read()
        return replace(weight, codes=file.put(weight.codes).read(), scale=scale, zero_point=point)
