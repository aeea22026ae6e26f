# SPDX-License-Identifier: Apache-2.0
"""docs/formats.md says what the code does: names, bits and the worked bytes."""

import re
from pathlib import Path

import numpy as np
import pytest

from qcompile.formats import FORMATS, get, scale_format
from qcompile.formats.block import BLOCK_FORMATS, block_format
from qcompile.layouts.n16k4 import field_bytes, steps_of
from qcompile.layouts.n16k4p import N16K4P
from qcompile.numerics.weight import CodedWeight

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()


def test_the_worked_bytes() -> None:
    """Eight columns of one output of e2m1, in the order of n16k4/1."""
    assert "codes 6 e 1 0 | 7 f 2 0" in TEXT
    codes = np.zeros((16, 8), np.uint8)
    codes[0] = [0x6, 0xE, 0x1, 0x0, 0x7, 0xF, 0x2, 0x0]
    (line,) = re.findall(r"^byte\s+((?:[0-9a-f]{2}\s*)+)$", TEXT, re.MULTILINE)
    packed = field_bytes(steps_of(codes, 8), 4).ravel()
    assert packed[:4].tobytes().hex(" ") == " ".join(line.split())
    for half, columns in (("low", codes[0, :4]), ("high", codes[0, 4:])):
        (values,) = re.findall(rf"value of the {half} half\s+(.*)$", TEXT, re.MULTILINE)
        real = get("e2m1").values[columns] * get("e2m1").table_scale
        assert [float(v.replace("−", "-")) for v in values.split()] == real.tolist()


def test_the_bytes_of_a_block_with_a_special_value() -> None:
    """Eight columns of one output of bitmod4, and the byte that says what code 8 means there."""
    assert "Codes 7 f 8 0 | 1 9 8 c" in TEXT
    codes = np.zeros((16, 8), np.int16)
    codes[0] = [0x7, 0xF, 0x8, 0x0, 0x1, 0x9, 0x8, 0xC]
    (byte,) = re.findall(r"^special byte ([0-9a-f]{2})", TEXT, re.MULTILINE)
    special = np.full((16, 1), int(byte, 16), np.int16)
    format, scale = get("bitmod4"), np.full((16, 1), get("bitmod4").table_scale, np.float32)
    weight = CodedWeight(codes, scale, special, format, 0, "f16")
    found = []
    for half in ("low", "high"):
        (values,) = re.findall(rf"^bitmod4 {half} half +(.*)$", TEXT, re.MULTILINE)
        found += [float(v.replace("−", "-")) for v in values.split()]
    assert found == weight.decode()[0].tolist()
    (line,) = re.findall(r"^packed +(.*)$", TEXT, re.MULTILINE)
    packed = N16K4P.pack(weight)
    assert packed.size == 16 + 64 + 16 * 2  # special bytes, codes, scales
    assert packed[:16].tolist() == [int(byte, 16)] * 16
    assert packed[16:20].tobytes().hex(" ") == " ".join(line.split())


@pytest.mark.parametrize(
    ("name", "code", "value"),
    [
        ("e4m3", 0x7E, 448),
        ("e4m3", 0x01, 2.0**-9),
        ("e4m3", 0x80, 0),
        ("posit8_0", 0x40, 1),
        ("posit8_0", 0x60, 2),
        ("posit8_0", 0x7F, 64),
        ("posit8_0", 0xC0, -1),
        ("posit8_0", 0x01, 1 / 64),
    ],
)
def test_patterns(name: str, code: int, value: float) -> None:
    assert f"0x{code:02x}" in TEXT
    assert float(get(name).values[code]) * get(name).table_scale == value


def test_every_block_format_stands_in_the_table() -> None:
    for name in BLOCK_FORMATS:
        (row,) = (
            line
            for line in TEXT.splitlines()
            if line.startswith("|") and f"`{name}`" in line and "/" in line
        )
        found = block_format(name)
        assert str(found.element) in row and scale_format(found.scale or "").name in row
        assert str(found.block_size) in row


def test_every_family_is_described() -> None:
    families = {
        re.sub(r"\d+(_\d+)?$", "", name) for name in FORMATS if not re.match(r"e\dm\d", name)
    }
    described = TEXT.replace("<n>_<es>", "").replace("<b>", "")
    assert [f for f in sorted(families) if f"`{f}" not in described] == []
