# SPDX-License-Identifier: Apache-2.0
"""Threads of NumPy's matrix products: several only where a weight is large.

OpenBLAS wakes and awaits its threads for every product. With the small weights of a CNN that costs
more than it gains, and where other processes use the cores, many times the compile time. One thread
also makes the codes of such models independent of the number of cores.
"""

from types import TracebackType

import onnx_ir as ir
from threadpoolctl import ThreadpoolController

from qcompile.memory import largest_tensor

_LARGE_ELEMENTS = 1 << 20  # a product of 2 threads with 1024 x 1024 weights is faster than of one


class ProductThreads:
    """A context that puts back what was set before."""

    def __init__(self) -> None:
        self._controller = ThreadpoolController().select(user_api="blas")
        self._before = [(each, each.num_threads) for each in self._controller.lib_controllers]

    def __enter__(self) -> "ProductThreads":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for library, number in self._before:
            library.set_num_threads(number)

    def fit(self, model: ir.Model) -> None:
        """One thread, unless the model has a large weight."""
        largest = largest_tensor(model)
        if largest is None or largest.size < _LARGE_ELEMENTS:
            for library, _ in self._before:
                library.set_num_threads(1)
