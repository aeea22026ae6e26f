# SPDX-License-Identifier: Apache-2.0
"""Calibration data: .npz, .npy, a folder of them, MODULE:FUNCTION, an iterable, or an object with get_next()."""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.errors import InputError, nearest

Feed = dict[str, NDArray]


@dataclass(frozen=True)
class Data:
    """Samples as feeds that can be read again and again; `num_samples` counts the leading axis."""

    feeds: list[Feed]
    num_samples: int
    is_synthetic: bool = False

    def __iter__(self) -> Iterator[Feed]:
        return iter(self.feeds)

    def first(self, count: int) -> "Data":
        """At most `count` samples from the start."""
        kept: list[Feed] = []
        left = count
        for feed in self.feeds:
            size = len(next(iter(feed.values())))
            if left <= 0:
                break
            kept.append({k: v[:left] if size > left else v for k, v in feed.items()})
            left -= size
        return Data(kept, min(count, self.num_samples), self.is_synthetic)


def read_data(source: Any, inputs: list[ir.Value], limit: int, batch: int = 16) -> Data:
    """The samples of `source`, checked against the model's inputs; every problem in one InputError."""
    if isinstance(source, str | Path):
        source = _from_path(str(source), inputs)
    if hasattr(source, "get_next"):
        source = iter(source.get_next, None)
    if isinstance(source, dict):
        source = [source]
    if not isinstance(source, Iterable):
        raise InputError(f"calibration data: {type(source).__name__} is no path, dict or iterable")
    feeds: list[Feed] = []
    count = 0
    for item in source:
        feed = _checked(item, inputs)
        pieces = _split(feed, inputs, batch)
        for piece in pieces:
            if count >= limit:
                return Data(feeds, count)
            size = len(next(iter(piece.values())))
            kept = limit - count
            if size > kept and _fixed_batch(inputs) is None:
                piece, size = {k: v[:kept] for k, v in piece.items()}, kept
            feeds.append(piece)
            count += size
    if not count:
        raise InputError("calibration data: no samples (the leading axis counts them)")
    return Data(feeds, count)


def _from_path(text: str, inputs: list[ir.Value]) -> Iterable[Feed]:
    path = Path(text)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
        if not files:
            raise InputError(f"calibration data {text}: the folder has no .npz or .npy file")
        return (_read_file(p, inputs) for p in files)
    if path.is_file():
        return [_read_file(path, inputs)]
    module, colon, function = text.partition(":")
    if not colon:
        raise InputError(f"calibration data {text}: no such file or folder")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"calibration data {text}: {error}") from None
    result = found()
    return iter(result.get_next, None) if hasattr(result, "get_next") else result


def _read_file(path: Path, inputs: list[ir.Value]) -> Feed:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(inputs) != 1:
                names = ", ".join(str(v.name) for v in inputs)
                raise InputError(
                    f"calibration data {path}: a .npy fits one input; the model has {names}"
                )
            return {inputs[0].name or "": loaded}
        return {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except ValueError as error:
        pickled = "pickle" in str(error).lower()
        why = "it holds Python objects (pickle), which are never loaded" if pickled else str(error)
        raise InputError(f"calibration data {path}: {why}") from None
    except Exception as error:  # zipfile and zlib raise their own types for damaged files
        raise InputError(
            f"calibration data {path}: not a readable .npz or .npy ({error})"
        ) from None


def _checked(item: Any, inputs: list[ir.Value]) -> Feed:
    """The feed in the inputs' order, or every problem at once."""
    if not isinstance(item, dict):
        raise InputError(
            f"calibration data: a sample is a mapping of input name to array, found {type(item).__name__}"
        )
    names = [v.name or "" for v in inputs]
    problems = [
        f'"{n}" is no input of the model: {nearest(n, names)}' for n in item if n not in names
    ]
    problems += [f'input "{n}" is missing' for n in names if n not in item]
    feed: Feed = {}
    for value in inputs:
        if value.name not in item:
            continue
        array = np.asarray(item[value.name])
        problems += _array_problems(array, value)
        if not problems:
            feed[value.name or ""] = np.ascontiguousarray(array, value.dtype.numpy())  # type: ignore[union-attr]
    lengths = {len(a) for a in feed.values() if a.ndim}
    if len(lengths) > 1 and not problems:
        problems.append(f"the inputs have different numbers of samples: {sorted(lengths)}")
    if problems:
        raise InputError("calibration data: " + "; ".join(problems))
    return feed


def _array_problems(array: NDArray, value: ir.Value) -> list[str]:
    dtype = value.dtype.numpy() if value.dtype is not None else array.dtype
    problems = []
    if array.dtype == object:
        return [f'"{value.name}" holds Python objects, which are never loaded']
    if np.issubdtype(dtype, np.floating) != np.issubdtype(array.dtype, np.floating):
        problems.append(f'"{value.name}" is {array.dtype}; the model takes {dtype}')
    dims = list(value.shape) if value.shape is not None else None
    if dims is not None:
        wanted = "[" + ", ".join(str(d) if isinstance(d, int) else "n" for d in dims) + "]"
        fits = array.ndim == len(dims) and all(
            not isinstance(d, int) or d == size
            for d, size in zip(dims[1:], array.shape[1:], strict=True)
        )
        if not fits:
            problems.append(
                f'"{value.name}" has the shape {list(array.shape)}; the model takes {wanted}'
            )
    if not array.size:
        problems.append(f'"{value.name}" is empty: its shape is {list(array.shape)}')
    elif np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        problems.append(f'"{value.name}" holds NaN or infinity')
    return problems


def _fixed_batch(inputs: list[ir.Value]) -> int | None:
    sizes = {v.shape[0] for v in inputs if v.shape is not None and len(v.shape)}
    fixed = [s for s in sizes if isinstance(s, int)]
    return fixed[0] if fixed else None


def _split(feed: Feed, inputs: list[ir.Value], batch: int) -> Iterator[Feed]:
    """Batches of the model's fixed size, or of `batch`; samples that do not fill a fixed batch are left out."""
    fixed = _fixed_batch(inputs)
    size = fixed or batch
    total = len(next(iter(feed.values())))
    if fixed is not None and total < fixed:
        raise InputError(
            f"calibration data: {total} samples; the model's batch is fixed at {fixed}"
        )
    for start in range(0, total - (fixed or 1) + 1, size):
        yield {k: v[start : start + size] for k, v in feed.items()}


def synthetic_data(model: ir.Model, seed: int, samples: int = 2, length: int = 16) -> Data:
    """Random inputs where the user gave none: normal floats, and integers within the tables that they index.

    A free leading dimension is `samples`, any other free one `length`. Only agreement is measured on them, never accuracy.
    """
    rng = np.random.default_rng(seed)
    feed: Feed = {}
    for value in model.graph.inputs:
        dims = [
            d if isinstance(d, int) else samples if i == 0 else length
            for i, d in enumerate(value.shape or [])
        ]
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        if np.issubdtype(dtype, np.floating):
            feed[value.name or ""] = rng.standard_normal(dims).astype(dtype)
        else:
            feed[value.name or ""] = rng.integers(0, _index_limit(value), dims).astype(dtype)
    return Data([feed], samples, is_synthetic=True)


def _index_limit(value: ir.Value) -> int:
    """Rows of the smallest table that the value indexes, else 2."""
    rows = [
        int(use.node.inputs[0].shape[0])
        for use in value.uses()
        if use.node.op_type == "Gather"
        and use.idx == 1
        and use.node.inputs[0] is not None
        and use.node.inputs[0].shape is not None
        and isinstance(use.node.inputs[0].shape[0], int)
    ]
    return min(rows, default=2)
