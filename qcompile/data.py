# SPDX-License-Identifier: Apache-2.0
"""Data: samples for calibration and verification, checked against the model's inputs.

Sources: .npz, .npy, a folder of them, an ImageFolder, MODULE:FUNCTION, an iterable of {input name:
array}, or an object with get_next(). The leading axis counts samples. An input whose leading
dimension is fixed beside inputs with a free one (a scalar, a mask) has no samples: it takes the
model's own shape.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.element_types import is_float, is_integer, is_number, limits
from qcompile.errors import InputError, QcompileError, nearest
from qcompile.images import ImageFolder
from qcompile.user_function import call, load_function

Feed = dict[str, NDArray]
BATCH = 16  # samples of one run where the model's batch is free


@dataclass(frozen=True)
class Batch:
    """How a model counts samples: per input its leading size, 0 = free; other inputs have none."""

    sizes: dict[str, int]

    @classmethod
    def of(cls, inputs: list[ir.Value]) -> "Batch":
        """Free inputs count samples where there are any, else all that have a leading axis."""
        leading: dict[str, int] = {
            v.name or "": int(v.shape[0]) if v.shape and isinstance(v.shape[0], int) else 0
            for v in inputs
            if v.shape is None or len(v.shape)
        }
        free: dict[str, int] = {n: size for n, size in leading.items() if not size}
        return cls(free or leading)

    @property
    def is_free(self) -> bool:
        """Whether any number of samples may run at once."""
        return not all(self.sizes.values())

    def count(self, feed: Feed) -> int:
        """Samples of the feed, by the first input that counts them; 1 where none does."""
        return len(feed[next(iter(self.sizes))]) if self.sizes else 1

    def split(self, feed: Feed, samples: int = BATCH) -> Iterator[Feed]:
        """Feeds of one run each; what does not fill a fixed batch is left out."""
        if not self.sizes:
            yield feed
            return
        steps = {name: size or samples for name, size in self.sizes.items()}
        first = next(iter(steps))
        runs = len(feed[first]) / steps[first]
        for i in range(int(np.ceil(runs)) if self.is_free else int(runs)):
            yield {
                k: v[i * steps[k] : (i + 1) * steps[k]] if k in steps else v
                for k, v in feed.items()
            }

    def cut(self, feed: Feed, count: int) -> Feed:
        """The first samples of a feed; a fixed batch stays whole."""
        if not self.is_free:
            return feed
        return {k: v[:count] if k in self.sizes else v for k, v in feed.items()}


@dataclass(frozen=True)
class Data:
    """Samples as feeds of one run each, to be read again and again."""

    feeds: list[Feed]
    batch: Batch
    is_synthetic: bool = False
    watch: Callable[[str, int, int], None] | None = None  # ("samples", done, of all)
    step: str | None = None  # the input of the time step, which samples of one run share

    @property
    def num_samples(self) -> int:
        """All samples."""
        return sum(self.batch.count(feed) for feed in self.feeds)

    def __iter__(self) -> Iterator[Feed]:
        done = 0
        for feed in self.feeds:
            yield feed
            done += self.batch.count(feed)
            if self.watch is not None:
                self.watch("samples", done, self.num_samples)

    def first(self, count: int) -> "Data":
        """At most `count` samples from the start, but no less than one run of a fixed batch."""
        kept: list[Feed] = []
        for feed in self.feeds:
            if count <= 0:
                break
            kept.append(self.batch.cut(feed, count))
            count -= self.batch.count(feed)
        return Data(kept, self.batch, self.is_synthetic, step=self.step)


def read_data(source: Any, inputs: list[ir.Value], limit: int) -> Data:
    """The samples of `source`, at most `limit`; every problem of a file in one InputError."""
    batch = Batch.of(inputs)
    feeds: list[Feed] = []
    left = limit
    for where, item in _items(source, inputs, limit):
        for piece in batch.split(_checked(where, item, inputs, batch)):
            if left <= 0:
                return Data(feeds, batch)
            feeds.append(batch.cut(piece, left))
            left -= batch.count(piece)
    if not feeds:
        raise InputError("calibration data: no samples (the leading axis counts them)")
    return Data(feeds, batch)


def check_source(source: Any) -> None:
    """Refuse a path that does not exist, before any slow work."""
    if isinstance(source, ImageFolder):
        source.check()
    elif isinstance(source, str | Path):
        text, what = str(source), "calibration data"
        if not _files(text):
            load_function(text, what)


def _files(text: str) -> list[Path]:
    """The files that the text names; empty for MODULE:FUNCTION."""
    path = Path(text)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
        if not files:
            raise InputError(f"calibration data {text}: the folder has no .npz or .npy file")
        return files
    if path.is_file():
        return [path]
    if path.exists():
        raise InputError(f"calibration data {text}: it is no file and no folder")
    if ":" not in text:
        raise InputError(
            f"calibration data {text}: no such file or folder (MODULE:FUNCTION has a colon)"
        )
    return []


def _items(source: Any, inputs: list[ir.Value], limit: int) -> Iterator[tuple[str, Any]]:
    """(where it is from, what should be a feed) of every item."""
    where = "calibration data"
    if isinstance(source, str | Path):
        files = _files(str(source))
        for path in files:
            yield f"{where} {path}", _read_file(path, inputs)
        if files:
            return
        text, what = str(source), where
        where = f"{where} {text}"
        source = call(text, what, load_function(text, what))
    if isinstance(source, ImageFolder):
        source = source.feeds(inputs, limit)
    if hasattr(source, "get_next"):
        source = iter(source.get_next, None)
    if isinstance(source, dict):
        source = [source]
    if not isinstance(source, Iterable):
        raise InputError(f"{where}: {type(source).__name__} is no path, mapping or iterable")
    try:
        yield from ((where, item) for item in source)
    except QcompileError:
        raise
    except (Exception, SystemExit) as error:  # the user's generator
        raise InputError(f"{where}: {type(error).__name__}: {error}") from error


def _read_file(path: Path, inputs: list[ir.Value]) -> Feed:
    names = [str(v.name) for v in inputs]
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(names) == 1:
                return {names[0]: loaded}
            raise InputError(
                f"calibration data {path}: a .npy fits one input; the model has {', '.join(names)}"
            )
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except ValueError as error:
        pickled = "pickle" in str(error).lower()
        why = "it holds Python objects (pickle), which are never loaded" if pickled else str(error)
        raise InputError(f"calibration data {path}: {why}") from None
    except Exception as error:  # zipfile and zlib raise their own types for damaged files
        damaged = isinstance(error, zipfile.BadZipFile | EOFError)
        why = "it is damaged or cut short" if damaged else str(error)
        raise InputError(f"calibration data {path}: no readable .npz or .npy: {why}") from None


def _checked(where: str, item: Any, inputs: list[ir.Value], batch: Batch) -> Feed:
    """The feed in the inputs' order, or every problem at once."""
    if not isinstance(item, dict):
        raise InputError(
            f"{where}: a sample is a mapping of input name to array, found {type(item).__name__}"
        )
    names = [v.name or "" for v in inputs]
    problems = [
        f'"{n}" is no input of the model: {nearest(str(n), names)}' for n in item if n not in names
    ]
    problems += [f'input "{n}" is missing' for n in names if n not in item]
    feed: Feed = {}
    for value in inputs:
        name = value.name or ""
        if name in item:
            array = np.asarray(item[name])
            found = _array_problems(array, value, counts=name in batch.sizes)
            problems += found
            if not found:
                feed[name] = array
    problems += _count_problems(feed, batch)
    if len(problems) == 1:
        raise InputError(f"{where}: {problems[0]}")
    if problems:
        raise InputError("\n  ".join([f"{where}:", *problems]))
    return {v.name or "": _as_dtype(feed[v.name or ""], v) for v in inputs}


def _as_dtype(array: NDArray, value: ir.Value) -> NDArray:
    return np.ascontiguousarray(array, dtype_of(value)).reshape(array.shape)


def dtype_of(value: ir.Value) -> np.dtype:
    """The input's NumPy type; float32 where the model does not say."""
    return value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)


def _array_problems(array: NDArray, value: ir.Value, *, counts: bool) -> list[str]:
    dtype, name = dtype_of(value), value.name
    if dtype.kind == "O":  # ONNX strings
        fits = array.dtype.kind in "UO"
        return [] if fits else [f'"{name}" is {array.dtype}; the model takes strings']
    if not is_number(array.dtype):
        what = "Python objects" if array.dtype.kind == "O" else f"{array.dtype} values"
        return [f'"{name}" holds {what}; the model takes {dtype}']
    problems = []
    if is_float(array.dtype) != is_float(dtype):
        problems.append(f'"{name}" is {array.dtype}; the model takes {dtype}')
    elif is_integer(dtype) and array.size and not _fits(array, dtype):
        problems.append(
            f'"{name}" holds {array.min()} to {array.max()}, more than {dtype} of the model can'
        )
    dims = None if value.shape is None else list(value.shape)
    if dims is not None and not _has_shape(array, dims, counts=counts):
        wanted = ["n" if i == 0 and counts else str(d) for i, d in enumerate(dims)]
        problems.append(
            f'"{name}" has the shape {list(array.shape)}; the model takes [{", ".join(wanted)}]'
        )
    if not array.size:
        problems.append(f'"{name}" is empty: its shape is {list(array.shape)}')
    elif is_float(array.dtype) and not np.isfinite(array).all():
        problems.append(f'"{name}" holds NaN or infinity')
    return problems


def _fits(array: NDArray, dtype: np.dtype) -> bool:
    least, most = limits(dtype)
    return int(array.min()) >= least and int(array.max()) <= most


def _has_shape(array: NDArray, dims: list[Any], *, counts: bool) -> bool:
    return array.ndim == len(dims) and all(
        not isinstance(d, int) or d == size or (i == 0 and counts)
        for i, (d, size) in enumerate(zip(dims, array.shape, strict=True))
    )


def _count_problems(feed: Feed, batch: Batch) -> list[str]:
    """Inputs that count samples agree, and fill one run of a fixed batch."""
    counted = {n: (len(feed[n]), size or 1) for n, size in batch.sizes.items() if n in feed}
    short = [
        f'"{name}" has {have} samples; the model\'s batch is fixed at {size}'
        for name, (have, size) in counted.items()
        if have < size
    ]
    if not short and len({have // size for have, size in counted.values()}) > 1:
        listed = ", ".join(
            f"{name} {have}" + (f" in batches of {batch.sizes[name]}" if batch.sizes[name] else "")
            for name, (have, _) in counted.items()
        )
        return [f"the inputs have different numbers of samples: {listed}"]
    return short
