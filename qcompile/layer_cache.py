# SPDX-License-Identifier: Apache-2.0
"""Layer cache: compensated codes, a file a layer, and steps of tuning, so that an interrupted
compilation goes on.

It lies beside the calibration cache. A file is named after the digest of all that its codes depend
on, so those of another model, sample or recipe are never found. It appears whole or not at all; one
that is damaged is computed again.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qcompile.calibration_cache import CalibrationCache, data_digest, rotations_of
from qcompile.data import Data
from qcompile.errors import InputError
from qcompile.numerics.weight import CodedWeight
from qcompile.plan import Plan
from qcompile.spec import QuantSpec
from qcompile.version import VERSION

T = TypeVar("T")
_FORMAT = 1
_PARTS = ("codes", "scale", "zero_point")


@dataclass(frozen=True)
class Layer:
    """What was found for a weight: codes and Σ ((Ŵ − W) x)² of them and of the nearest ones.

    weight: None where the nearest codes are better. inputs: the held-out inputs that decided,
    float32 [num, groups, K].
    """

    weight: CodedWeight | None
    errors: tuple[float, float]
    inputs: NDArray[np.float32]


@dataclass(frozen=True)
class LayerCache:
    """A folder of layers, and what all of them depend on."""

    folder: Path
    key: dict[str, Any]

    @classmethod
    def of(
        cls, cache: CalibrationCache | None, data: Data | None, plan: Plan
    ) -> "LayerCache | None":
        """Beside the calibration cache c.npz: the folder c.npz.layers."""
        if cache is None or data is None:
            return None
        key = {"format": _FORMAT, "qcompile": VERSION, "model": cache.model}
        key |= rotations_of(plan)
        return cls(
            cache.path.with_name(f"{cache.path.name}.layers"), key | {"data": data_digest(data)}
        )

    def read(
        self, own: dict[str, Any], spec: QuantSpec, shape: tuple[int, int], group: int
    ) -> Layer | None:
        """The layer of what its codes depend on; None where there is none, or a damaged one."""
        return self.load(own, lambda loaded: _checked(loaded, spec, shape, group))

    def write(self, own: dict[str, Any], layer: Layer) -> None:
        """Whole or not at all."""
        arrays: dict[str, Any] = {"errors": np.array(layer.errors), "inputs": layer.inputs}
        if layer.weight is not None:
            arrays |= {n: getattr(layer.weight, n) for n in _PARTS}
        self.store(own, {n: a for n, a in arrays.items() if a is not None})

    def load(self, own: dict[str, Any], take: Callable[[Any], T]) -> T | None:
        """What `take` makes of the arrays that depend on `own`; None where there are none, or
        damaged ones, at which it raises.
        """
        path, key = self._place(own)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as loaded:
                if json.loads(str(loaded["key"])) != key:
                    raise ValueError("it has another key")
                return take(loaded)
        except Exception as error:  # zipfile, zlib, json and NumPy raise their own types
            logging.getLogger("qcompile").warning(
                "%s is damaged (%s); what it held is computed again", path, error
            )
            return None

    def store(self, own: dict[str, Any], arrays: dict[str, Any]) -> None:
        """The arrays in a file, whole or not at all."""
        path, key = self._place(own)
        try:
            self.folder.mkdir(exist_ok=True)
            number, made = tempfile.mkstemp(dir=self.folder, prefix=".part.")
            try:
                with os.fdopen(number, "wb") as file:
                    np.savez(file, allow_pickle=False, key=np.array(json.dumps(key)), **arrays)
                os.replace(made, path)
            except BaseException:
                Path(made).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise InputError(f"calibration cache {self.folder}: {error.strerror}") from None

    def _place(self, own: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        key = self.key | own
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest}.npz", key


def _checked(loaded: Any, spec: QuantSpec, shape: tuple[int, int], group: int) -> Layer:
    """The layer, whose shapes and types are those of the weight; codes are checked on use too."""
    errors, inputs = loaded["errors"], loaded["inputs"]
    if errors.shape != (2,) or errors.dtype != np.float64 or not np.isfinite(errors).all():
        raise ValueError("its errors are no two numbers")
    if inputs.dtype != np.float32 or inputs.shape[1:] != (group, shape[1]):
        raise ValueError(f"its inputs are {inputs.dtype} {list(inputs.shape)}")
    both = float(errors[0]), float(errors[1])
    if "codes" not in loaded.files:
        return Layer(None, both, inputs)
    point = loaded["zero_point"] if "zero_point" in loaded.files else None
    weight = CodedWeight(
        *(loaded["codes"], loaded["scale"], point),
        *(spec.format, spec.block_size, spec.scale_format),
    )
    types = [weight.codes.dtype, *([] if point is None else [point.dtype])]
    if weight.shape != shape or any(t != np.int16 for t in types):
        raise ValueError(f"its codes are {weight.codes.dtype} {list(weight.shape)}")
    has_point = not spec.is_symmetric or bool(spec.format.specials)
    if (point is not None) != has_point or loaded["scale"].dtype != np.float32:
        raise ValueError("its scales or zero points are of another type")
    return Layer(weight, both, inputs)
