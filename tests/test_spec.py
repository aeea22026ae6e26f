# SPDX-License-Identifier: Apache-2.0
"""QuantSpec prints and parses as one line."""

import itertools

import pytest

from qcompile.errors import InputError
from qcompile.formats import FORMATS, SCALE_FORMATS
from qcompile.spec import QuantSpec

WHERE = {
    "tensor": [(0, 0)],
    "axis": [(0, 0), (1, 0)],
    "block": [(1, 32), (0, 7)],
    "row": [(0, 0)],
    "sample": [(0, 0)],
}
SPECS = [
    QuantSpec(format, kind, axis, size, symmetric, scale)
    for format, (kind, places), symmetric, scale in itertools.product(
        FORMATS.values(), WHERE.items(), (True, False), SCALE_FORMATS
    )
    for axis, size in places
]


def test_every_spec_parses_back() -> None:
    assert [QuantSpec.parse(str(spec)) for spec in SPECS] == SPECS
    assert len({str(spec) for spec in SPECS}) == len(SPECS)


@pytest.mark.parametrize(
    "text",
    [
        "int4/block(axis=1,size=32)/sym/f16",
        "uint8/tensor/asym/f32",
        "int8/row/sym/f32",
        "int8/axis(axis=0)/sym/f32",
    ],
)
def test_text_prints_back(text: str) -> None:
    assert str(QuantSpec.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "int4",
            '"int4" is no quantization spec; one looks like int4/block(axis=1,size=32)/sym/f16',
        ),
        ("int9/tensor/sym/f32", 'unknown format "int9": did you mean "int8"?'),
        ("int4/group/sym/f32", 'unknown granularity "group"'),
        ("int4/tensor/sym/f64", 'unknown scale format "f64": did you mean "f16"?'),
        ("int4/block/sym/f32", "granularity block needs a block size, and no other has one"),
        (
            "int4/axis(axis=0,size=32)/sym/f32",
            "granularity block needs a block size, and no other has one",
        ),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        QuantSpec.parse(text)
    assert str(error.value) == message


def test_dynamic_is_row_and_sample() -> None:
    assert {s.granularity for s in SPECS if s.is_dynamic} == {"row", "sample"}
