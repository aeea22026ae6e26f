# SPDX-License-Identifier: Apache-2.0
"""SQNR_DB: the SQNR of every listed format on three distributions, measured.

`measured` is how; it takes a second for some codebooks, so `qcompile formats` prints the table, and
a test measures all of it again. Each is of one draw of 15,360 weights: over ten draws the standard
deviation is at most 0.1 dB for normal, 0.15 for Laplace and 0.7 for Student-t weights, the squares
of which have no variance (int4, uint4, nf4, lloyd4, mxfp4, int8).
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.format_theory import qsnr_db
from qcompile.formats import IROOTS, get
from qcompile.formats.block import block_format, stored_scales
from qcompile.node_specs import usual_block
from qcompile.observers.weight_range import squared_error
from qcompile.settle_formats import settled_spec
from qcompile.spec import QuantSpec

DISTRIBUTIONS = ("gauss", "laplace", "t3")
_ROWS, _COLUMNS = 12, 1280  # of the samples: whole blocks of every size


def listed_spec(name: str) -> QuantSpec:
    """What is listed: its own blocks and scales, else f16 and the usual block."""
    if name == IROOTS:
        return QuantSpec(get(IROOTS), "axis")
    found = block_format(name)
    stored = stored_scales(found.element, found.scale or "f16")
    size = found.block_size or usual_block(found.element)
    return QuantSpec(found.element, "block", 1, size, found.element.is_signed, stored)


def measured(name: str, seed: int = 0) -> dict[str, float]:
    """SQNR in dB of the nearest codes of random weights, by distribution.

    Of iroots2 halves of a row are real and imaginary parts.
    """
    spec, drawn = listed_spec(name), {kind: samples(kind, seed) for kind in DISTRIBUTIONS}
    if name == IROOTS:
        halves = {kind: np.split(weight, 2, axis=1) for kind, weight in drawn.items()}
        drawn = {kind: np.hstack([a + b, b - a]) for kind, (a, b) in halves.items()}
    return {kind: _sqnr(weight, spec) for kind, weight in drawn.items()}


def samples(distribution: str, seed: int = 0) -> NDArray[np.float32]:
    """Weights [N, K] of a distribution: normal, Laplace, Student-t with 3 degrees of freedom."""
    rng = np.random.default_rng(seed)
    shape = (_ROWS, _COLUMNS)
    drawn = {
        "gauss": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape),
        "t3": lambda: rng.standard_t(3, shape),
    }[distribution]()
    return np.asarray(drawn, np.float32)


def _sqnr(weight: NDArray[np.float32], spec: QuantSpec) -> float:
    noise = squared_error(weight, settled_spec(weight, spec))
    return qsnr_db(noise / float(np.square(weight, dtype=np.float64).sum()))


SQNR_DB = {
    "int1": (2.3, 2.2, 2.2),
    "int2": (7.4, 6.4, 6.1),
    "int3": (14.2, 12.3, 11.1),
    "int4": (20.8, 18.7, 17.1),
    "int5": (27.2, 24.9, 23.4),
    "int6": (33.4, 31.2, 29.4),
    "int7": (39.5, 37.3, 35.6),
    "int8": (45.6, 43.4, 41.5),
    "uint1": (2.9, 3.1, 3.7),
    "uint2": (9.6, 8.6, 8.3),
    "uint3": (15.9, 14.5, 13.9),
    "uint4": (22.2, 20.7, 20.0),
    "uint5": (28.4, 26.8, 26.2),
    "uint6": (34.5, 33.0, 32.3),
    "uint7": (40.6, 39.0, 38.3),
    "uint8": (46.7, 45.1, 44.5),
    "binary": (4.6, 3.1, 2.5),
    "ternary": (7.2, 5.8, 4.8),
    "balanced2": (11.4, 9.8, 8.9),
    "bitmod3": (14.8, 13.5, 11.9),
    "bitmod4": (20.7, 19.9, 18.4),
    "rf8": (33.3, 34.0, 34.9),
    "itq3": (14.8, 12.4, 9.1),
    "itq3_ternary": (10.5, 9.3, 7.6),
    "tq1": (4.6, 3.1, 2.5),
    "tq2": (9.8, 7.8, 6.2),
    "tq3": (16.0, 14.1, 12.2),
    "tq4": (22.3, 20.9, 19.3),
    "e2m1": (20.9, 20.4, 20.0),
    "e3m0": (15.9, 16.4, 17.3),
    "e2m3": (32.9, 33.0, 32.8),
    "e3m2": (27.6, 28.5, 29.4),
    "e4m3": (33.6, 34.5, 35.5),
    "e5m2": (27.6, 28.5, 29.4),
    "fp3": (14.5, 13.4, 12.5),
    "fp4": (20.9, 20.4, 20.0),
    "fp5": (27.2, 26.9, 26.5),
    "fp6": (33.4, 33.0, 32.8),
    "fp7": (39.5, 39.0, 38.9),
    "fp8": (45.6, 45.0, 44.9),
    "posit4_1": (15.7, 16.2, 17.1),
    "posit8_0": (43.9, 43.5, 44.2),
    "nf3": (15.4, 14.6, 14.0),
    "nf4": (22.0, 21.1, 20.4),
    "gquant1": (4.6, 3.1, 2.5),
    "gquant2": (9.8, 7.8, 6.2),
    "gquant3": (16.0, 14.1, 12.3),
    "gquant4": (22.3, 21.0, 19.5),
    "lloyd1": (4.6, 3.1, 2.5),
    "lloyd2": (9.8, 7.8, 6.2),
    "lloyd3": (16.0, 14.1, 12.2),
    "lloyd4": (22.3, 21.0, 19.4),
    "lloyd5": (28.2, 27.4, 26.6),
    "lloyd6": (33.2, 33.2, 32.9),
    "lloyd7": (37.1, 38.0, 38.4),
    "lloyd8": (40.4, 41.9, 43.0),
    "kmeans2": (9.8, 8.5, 8.0),
    "kmeans3": (16.0, 14.9, 14.7),
    "kmeans4": (22.3, 21.3, 21.2),
    "kmeans5": (28.3, 27.7, 27.6),
    "kmeans6": (34.6, 33.7, 33.7),
    "kmeans7": (40.6, 39.8, 39.8),
    "kmeans8": (46.6, 46.0, 45.8),
    "mxint8": (41.6, 39.9, 38.4),
    "mxint6": (29.8, 28.0, 26.7),
    "mxint4": (18.3, 16.7, 15.3),
    "mxfp8": (31.4, 31.6, 31.9),
    "mxfp6": (30.9, 30.3, 29.7),
    "mxfp4": (19.1, 18.1, 17.5),
    "nvint4": (21.6, 19.9, 19.0),
    "nvfp4": (21.3, 21.3, 21.2),
    "bfp8": (12.7, 11.3, 10.3),
    "bfp12": (19.1, 17.8, 16.9),
    "bfp16": (42.8, 41.4, 40.2),
    "iroots2": (4.4, 3.5, 2.7),
}
