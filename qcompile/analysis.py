# SPDX-License-Identifier: Apache-2.0
"""analyze: how weights and inputs of products are spread, and what each number format loses there.

Predicted figures are those of format_theory.py, from the crest factors of the blocks; measured ones
are of codes, once with scales from the extremes, as the theorems have them, and once with scales
of least squared error. Formats are measured on at most 2^15 values of a tensor, in whole rows.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.bodies import compiled_graphs
from qcompile.compensate import source_of
from qcompile.data import Data, read_data
from qcompile.distribution import Distribution, block_moments, distribution_of
from qcompile.division import Division, Footprint
from qcompile.format_choice import bits_per_weight
from qcompile.format_theory import best_split, has_theory, predicted_noise, qsnr_db
from qcompile.formats.block import block_format, stored_scales
from qcompile.load import load
from qcompile.moments import Source
from qcompile.normalise import normalise
from qcompile.observers.weight_range import squared_error
from qcompile.passes.transform.code_store import as_matrix
from qcompile.plan import WEIGHTED_OPS
from qcompile.products import weight_of
from qcompile.settle_formats import sample_of, settled_spec
from qcompile.spec import QuantSpec

# Names of block formats (formats/block.py); one without a scale has a scale of a row.
CANDIDATES = (
    *("int4/f16/32", "e2m1/f16/32", "nvint4", "nvfp4", "mxint4", "mxfp4"),
    *("nf4/f16/32", "posit4_1/f16/32", "lloyd4/f16/32", "kmeans4/f16/32"),
    *("int8", "e4m3", "rf8", "posit8_0", "mxint8", "mxfp8"),
)
SPLITS = (3, 4, 5, 6, 7, 8)
_SAMPLE = 1 << 15
_INPUT_VALUES = 1 << 18  # of an input that are kept


@dataclass(frozen=True)
class FormatError:
    """SQNR in dB of one format on one tensor; infinite where nothing is lost.

    predicted_db: None where no theorem is about the format.
    """

    format: str
    bits: int
    bits_per_weight: float
    predicted_db: float | None
    extremes_db: float
    searched_db: float


@dataclass(frozen=True)
class TensorFacts:
    """A weight [N, K], or rows of a product's input; kind: "weight" or "input"."""

    name: str
    kind: str
    op: str
    readers: tuple[str, ...]
    shape: tuple[int, ...]
    distribution: Distribution
    formats: tuple[FormatError, ...]

    def best(self, bits: int) -> FormatError | None:
        """Of the formats of so many bits that with the highest SQNR; None for a tensor of zeros."""
        found = [each for each in self.formats if each.bits == bits]
        return max(found, key=lambda each: each.searched_db, default=None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        best = {str(bits): each.format for bits in (4, 8) if (each := self.best(bits))}
        return {
            **{"name": self.name, "kind": self.kind, "op": self.op, "readers": self.readers},
            "shape": self.shape,
            **self.distribution.as_dict(),
            "formats": [asdict(each) for each in self.formats],
            "best": best,
        }


def analyze(
    path: str | Path, calibration_data: Any = None, num_samples: int = 64
) -> list[TensorFacts]:
    """Every weight of a product or table of the model, then with data every product's input.

    InputError as `compile` raises it for a file or data that cannot be used.
    """
    model = normalise(load(path))
    found = [*_weights(model)]
    if calibration_data is not None:
        data = read_data(calibration_data, list(model.graph.inputs), num_samples)
        found += _inputs(model, data)
    return found


def splits() -> dict[str, str]:
    """Bits → the float that the law of training says is best."""
    return {str(b): "e{}m{}".format(*best_split(b)) for b in SPLITS}


def facts_of(
    name: str, kind: str, op: str, readers: tuple[str, ...], rows: NDArray[np.float32]
) -> TensorFacts:
    """Of rows [N, K] that are finite."""
    spread = distribution_of(rows)
    formats = tuple(errors_of(rows)) if spread.rms > 0 else ()
    return TensorFacts(name, kind, op, readers, rows.shape, spread, formats)


def errors_of(rows: NDArray[np.float32]) -> Iterator[FormatError]:
    """What each of CANDIDATES loses on rows [N, K], not all of them 0."""
    sample = sample_of(rows, _SAMPLE)
    energy = float(np.square(sample, dtype=np.float64).sum())
    if not energy > 0:  # all rows of the sample are zeros
        return
    for text in CANDIDATES:
        spec = settled_spec(sample, spec_of(text))
        size = bits_per_weight(spec_of(text), rows.size)
        shares = [squared_error(sample, spec, method) / energy for method in ("minmax", "mse")]
        predicted = None
        if has_theory(spec.format):
            predicted = qsnr_db(_predicted_error(sample, spec) / energy)
        measured = (qsnr_db(share) for share in shares)
        yield FormatError(text, spec.bits, size, predicted, *measured)


def spec_of(text: str) -> QuantSpec:
    """The spec of a block format; of one without a scale a float32 one a row.

    >>> str(spec_of("mxfp4")), str(spec_of("int8"))
    ('e2m1/block(axis=1,size=32)/sym/e8m0', 'int8/axis(axis=0)/sym/f32')
    """
    found = block_format(text)
    if found.scale is None or found.block_size is None:
        return QuantSpec(found.element, "axis")
    scale = stored_scales(found.element, found.scale)
    return QuantSpec(found.element, "block", 1, found.block_size, True, scale)


def _predicted_error(rows: NDArray[np.float32], spec: QuantSpec) -> float:
    """Σ over the blocks of their energy times the share that is lost."""
    size = spec.block_size or rows.shape[1]
    most, energy, count = block_moments(rows, size)
    crest = most / np.sqrt(np.where(energy > 0, energy, 1) / count)
    return float((energy * predicted_noise(spec.format, spec.scale_format, size, crest)).sum())


def _weights(model: ir.Model) -> Iterator[TensorFacts]:
    readers: dict[str, list[ir.Node]] = {}
    values: dict[str, ir.Value] = {}
    for graph in compiled_graphs(model):
        for node in graph:
            value = weight_of(node) if node.op_type in WEIGHTED_OPS else None
            if value is not None and _is_matrix(value):
                readers.setdefault(value.name or "", []).append(node)
                values[value.name or ""] = value
    for name, nodes in readers.items():
        tensor = values[name].const_value
        assert tensor is not None
        rows = as_matrix(tensor)
        if np.isfinite([rows.min(), rows.max()]).all():
            names = tuple(node.name or "" for node in nodes)
            yield facts_of(name, "weight", nodes[0].op_type, names, rows)


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    return (
        tensor is not None
        and tensor.dtype == ir.DataType.FLOAT
        and len(tensor.shape) >= 2
        and tensor.size > 0
    )


def _inputs(model: ir.Model, data: Data) -> Iterator[TensorFacts]:
    """Rows of inputs as products see them: of Conv patches, of groups one after the other."""
    division = Division(footprint=Footprint.of(model, data))
    division.check()
    readers: dict[Source, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type in WEIGHTED_OPS and node.op_type != "Gather" and weight_of(node):
            found = source_of(node)
            if found is not None:
                readers.setdefault(found, []).append(node)
    rng = np.random.default_rng(0)
    kept: dict[Source, list[NDArray[np.float32]]] = {source: [] for source in readers}
    wanted = {source: [source.value] for source in readers}
    for group, values in division.runs(model, wanted, data):
        for source in group:
            x = np.atleast_2d(np.asarray(values[source.value], np.float32))
            most = _INPUT_VALUES // (source.columns * source.group * len(data.feeds))
            for rows in source.rows(x, np.ones(len(x), np.bool_), max(most, 1), rng):
                kept[source].append(rows.reshape(-1, source.columns))
    for source, nodes in readers.items():
        rows = np.concatenate(kept[source])
        if rows.size and np.isfinite([rows.min(), rows.max()]).all():
            names = tuple(node.name or "" for node in nodes)
            yield facts_of(source.value, "input", nodes[0].op_type, names, rows)
