# SPDX-License-Identifier: Apache-2.0
"""Calibration cache: what calibration found, in an .npz file, for the next compilation to read.

It fits one model, one method, one set of samples and one choice of activations; for any other it is
refused, never used in part.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.formats as formats
from qcompile.artifact import sha256
from qcompile.calibrate import buckets_for
from qcompile.calibrate import calibrate as run_calibration
from qcompile.data import Data
from qcompile.division import Division
from qcompile.errors import InputError
from qcompile.load import external_tensors
from qcompile.numerics.params import QuantParams
from qcompile.passes.transform.stats import Stats
from qcompile.plan import Plan
from qcompile.recipe import Recipe

_KEY = "key"  # the entry that says what the others fit
KEPT = ("ranges", "means")  # the fields of Stats that calibration fills
_VERSION = 2  # 1 had minmax as the default of every format
DEFAULT_METHOD = "the default of each format"
# What these decide is in the plan, in the samples or in the method, or has no part in calibration.
_SEEN_IN_THE_PLAN = (
    *("preset", "weight_format", "activation_format", "block_size", "edge_bits", "rules", "seed"),
    *("calibration_method", "calibration_percentile", "num_calibration_samples"),
    *("calibration_select", "calibration_groups", "timestep_input", "timestep_buckets"),
    *("op_types_to_quantize", "weight_scale_method", "weight_rounding", "input_range"),
    *("rotation", "effort", "tuning", "low_rank", "sparsity", "activation_polish"),
    "softmax_format",
)


@dataclass(frozen=True)
class CalibrationCache:
    """The file, and what is known before calibration of what it must fit."""

    path: Path
    model: str
    method: str

    @classmethod
    def of(
        cls, path: str | Path, model: str | Path, recipe: Recipe, *, has_data: bool
    ) -> "CalibrationCache":
        """For the model's file; InputError where the cache exists and is for another."""
        if not has_data:
            raise InputError(
                f"calibration cache {path}: give the calibration data too, which it is checked "
                "against and verification runs on"
            )
        method = recipe.calibration_method or DEFAULT_METHOD
        if method == "percentile":
            method += f" {recipe.calibration_percentile:g}"
        found = cls(Path(path), _model_digest(Path(model)), method)
        if found.path.exists():
            found.check(found.key({}), found.read()[0])
        elif not found.path.absolute().parent.is_dir():
            raise InputError(f"calibration cache {path}: its folder does not exist")
        return found

    def key(self, later: dict[str, Any]) -> dict[str, Any]:
        """What the cache must fit; `later` is what is known after annotate."""
        return {"version": _VERSION, "model": self.model, "method": self.method} | later

    def check(self, wanted: dict[str, Any], found: dict[str, Any]) -> None:
        """InputError that names what has changed."""
        texts = {
            "version": "was written by another version of qcompile",
            "model": "is for another model, or the model has changed since",
            "method": f"has ranges by {found.get('method')}; {self.method} was asked",
            "data": "is for other calibration samples",
            "values": "is for another choice of nodes or activations (preset, recipe, target)",
            "recipe": "is for another recipe",
        }
        changed = [name for name, value in wanted.items() if found.get(name) != value]
        if changed:
            raise InputError(
                f"calibration cache {self.path} {texts[changed[0]]}: remove it, or give another "
                "--calibration-cache"
            )

    def read(self) -> tuple[dict[str, Any], Stats]:
        """Key and statistics; InputError where the file is none."""
        try:
            with np.load(self.path, allow_pickle=False) as loaded:
                key = json.loads(str(loaded[_KEY]))
                parts: dict[str, dict[str, Any]] = {name: {} for name in KEPT}
                for entry in loaded.files:
                    part, _, name = entry.partition("/")
                    if name:
                        parts[part][name] = _decoded(loaded[entry])
            if not isinstance(key, dict):
                raise ValueError("its key is no mapping")
            return key, Stats(parts["ranges"], parts["means"])
        except Exception:  # zipfile, zlib, json and NumPy raise their own types
            raise InputError(
                f"calibration cache {self.path} is damaged or no cache: give another "
                "--calibration-cache"
            ) from None

    def write(self, key: dict[str, Any], stats: Stats) -> None:
        """Whole or not at all."""
        arrays: dict[str, Any] = {_KEY: np.array(json.dumps(key))}
        for part in KEPT:
            for name, value in getattr(stats, part).items():
                arrays[f"{part}/{name}"] = _encoded(value)
        folder = self.path.absolute().parent
        try:
            number, made = tempfile.mkstemp(dir=folder, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(number, "wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                os.replace(made, self.path)
            except BaseException:
                Path(made).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise InputError(f"calibration cache {self.path}: {error.strerror}") from None


def calibrate(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    cache: CalibrationCache | None,
    division: Division | None = None,
) -> Stats:
    """What calibration finds, or the cache already has."""
    if cache is None or data is None:
        return run_calibration(model, plan, recipe, data, division)
    leaders = sorted(set(plan.leaders.values()))
    values = {name: str(plan.activations[name]) for name in leaders}
    values |= {p.node: p.op_type for p in plan.nodes.values() if p.is_quantized}
    values |= {name: f"{values[name]} a time step" for name in leaders if name in plan.stepped}
    values |= rotations_of(plan)
    recipe_key = {k: v for k, v in asdict(recipe).items() if k not in _SEEN_IN_THE_PLAN}
    if plan.stepped:
        recipe_key["timesteps"] = [recipe.timestep_input, recipe.timestep_buckets]
    key = cache.key({"data": data_digest(data), "values": values, "recipe": recipe_key})
    if cache.path.exists():
        found, stats = cache.read()
        cache.check(key, found)
        return replace(stats, buckets=buckets_for(plan, recipe, data))
    stats = run_calibration(model, plan, recipe, data, division)
    cache.write(key, stats)
    return stats


def rotations_of(plan: Plan) -> dict[str, str]:
    """Which matrices turned what; the choice depends on the preset and on the seed."""
    rows = (row for row in plan.rotations if row.is_applied)
    return {f"rotation of {row.value}": f"{row.transform} seed {row.seed}" for row in rows}


def _encoded(value: QuantParams | NDArray) -> NDArray:
    """Params as one structured scalar, so that arrays and params are told apart by their type."""
    if isinstance(value, QuantParams):
        parts = [value.scale, value.zero_point, value.format.name]
        steps = [] if value.steps is None else [value.steps.tolist()]
        return np.array(json.dumps([*parts, *steps]))
    return value


def _decoded(array: NDArray) -> QuantParams | NDArray:
    if array.dtype.kind != "U":
        return array
    scale, zero_point, form, *steps = json.loads(str(array))
    own = np.array(steps[0], np.float32) if steps else None
    return QuantParams(float(scale), int(zero_point), formats.get(form), steps=own)


def _model_digest(path: Path) -> str:
    """Of the file and of the external data that it names; "" where there is no file yet."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256(sha256(path).encode())
    try:
        located = {Path(t.path) for _, t in external_tensors(ir.load(path))}
    except Exception:  # no ONNX file, which load says better
        return ""
    for part in sorted(located):
        if part.is_file():
            digest.update(sha256(part).encode())
    return digest.hexdigest()


def data_digest(data: Data) -> str:
    """Of all samples."""
    digest = hashlib.sha256()
    for feed in data.feeds:
        for name, array in feed.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
