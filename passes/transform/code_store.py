# SPDX-License-Identifier: Apache-2.0
"""CodeStore: coded weights by name, computed when read, above a budget kept in a file."""

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.memory import row_slices
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.grid_of import exact_codes
from qcompile.observers.weight_range import code_weight, growths
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
    (docs/results.md); tapered formats such as posits are searched always, and so are tables of two
    levels, whose scale is a mean and not an extreme (XNOR-Net). Of turned rows the norm is the
    scale (TurboQuant).
    """
    if asked is None and spec.format.turns is not None and spec.granularity == "axis":
        return "norm"
    has_two_levels = spec.format.is_table and spec.format.num_codes == 2
    is_searched = spec.granularity == "block" or has_two_levels or growths(spec.format)
    return asked or ("mse" if is_searched else "minmax")


class CodeStore:
    """Weights are coded on first use, once; those above the budget wait in a file."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._done: dict[str, CodedWeight] = {}
        self._narrow: dict[tuple[str, np.dtype], NDArray] = {}
        self._makers: dict[str, Callable[[], CodedWeight]] = {}
        self._file: ArrayFile | None = None
        self._kept_bytes = 0
        self._lock = Lock()  # rungs of verify read weights in threads

    def add(
        self, name: str, tensor: ir.TensorProtocol, spec: QuantSpec, *, is_exact: bool = False
    ) -> None:
        """Remember how to code a weight: as the data says, else to the nearest code.

        Its tensor is read when needed and not kept. is_exact: it lies on the grid of the spec.
        """
        if is_exact:
            return self.keep(name, lambda: exact_codes(as_matrix(tensor), spec))
        compensated = self.work.stats.compensated.get(name)
        method = scale_method(spec, self.work.recipe.weight_scale_method)
        self._makers[name] = (
            (lambda: self._coded(as_matrix(tensor), spec, method))
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

    def codes(self, name: str, dtype: np.dtype) -> NDArray:
        """The codes [N, K] in a container of one byte."""
        wide = self.get(name).codes
        with self._lock:
            if (name, dtype) not in self._narrow:
                self._narrow[name, dtype] = self._narrowed(wide, dtype)
            return self._narrow[name, dtype]

    def _narrowed(self, wide: NDArray[np.int16], dtype: np.dtype) -> NDArray:
        if self._fits(wide.size):
            return wide.astype(dtype)

        def write(out: NDArray) -> None:
            for rows in row_slices(*wide.shape):
                out[rows] = wide[rows].astype(dtype)

        return self._stored_in().fill(wide.shape, dtype, write).read()

    def _coded(self, weight: NDArray[np.float32], spec: QuantSpec, method: str) -> CodedWeight:
        """The nearest codes, in memory while the budget lasts, else mapped from the file."""
        if self._fits(2 * weight.size):
            return replace(code_weight(weight, spec, method), kept=None)
        found: list[CodedWeight] = []
        stored = self._stored_in().fill(
            weight.shape,
            np.int16,
            lambda out: found.append(code_weight(weight, spec, method, out)),
        )
        return self._outside(replace(found[0], codes=stored.read(), kept=None))

    def _fits(self, num_bytes: int) -> bool:
        """Whether so many bytes more stay within the budget; then they count."""
        if self._kept_bytes + num_bytes > self.work.budget.kept_bytes:
            return False
        self._kept_bytes += num_bytes
        return True

    def _stored_in(self) -> ArrayFile:
        self._file = self._file or ArrayFile()
        return self._file

    def _placed(self, weight: CodedWeight) -> CodedWeight:
        """The weight in memory while the budget lasts, else mapped from the file."""
        if self._fits(weight.codes.nbytes):
            return weight
        return self._outside(replace(weight, codes=self._stored_in().put(weight.codes).read()))

    def _outside(self, weight: CodedWeight) -> CodedWeight:
        """Scales, zero points and levels mapped from the file, too."""
        file = self._stored_in()
        point = None if weight.zero_point is None else file.put(weight.zero_point).read()
        scale = None if weight.scale is None else file.put(weight.scale).read()
        levels = None if weight.levels is None else file.put(weight.levels).read()
        return replace(weight, scale=scale, zero_point=point, levels=levels)
