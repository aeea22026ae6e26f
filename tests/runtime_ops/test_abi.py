# SPDX-License-Identifier: Apache-2.0
"""ort_abi.h against ONNX Runtime's official C header, where Debian's package can be fetched."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runtime_ops.official_headers import fetch_headers

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "runtime_ops" / "ort_abi.h"
TEXT = HEADER.read_text(encoding="utf-8")
VALUES = {
    "ORT_FAIL": "kFail",
    "ORT_INVALID_ARGUMENT": "kInvalidArgument",
    "ORT_RUNTIME_EXCEPTION": "kRuntimeException",
    "ORT_NOT_IMPLEMENTED": "kNotImplemented",
    "ORT_INVALID_GRAPH": "kInvalidGraph",
    "ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED": "kUndefined",
    "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT": "kFloat",
    "ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8": "kUint8",
    "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8": "kInt8",
    "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32": "kInt32",
    "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64": "kInt64",
    "INPUT_OUTPUT_REQUIRED": "kRequired",
    "INPUT_OUTPUT_OPTIONAL": "kOptional",
    "OrtMemTypeDefault": "kMemoryDefault",
    "ORT_OP_ATTR_INT": "kAttributeInt",
    "ORT_OP_ATTR_INTS": "kAttributeInts",
    "ORT_OP_ATTR_FLOAT": "kAttributeFloat",
    "ORT_OP_ATTR_STRING": "kAttributeString",
}


def functions(table: str) -> list[str]:
    """The function members that ort_abi.h declares of a struct."""
    body = TEXT.split(f"struct {table} {{")[1].split("\n};")[0]
    return re.findall(r"\(\*(\w+)\)\(", re.sub(r"void \(\*fn\)", "", body))


@pytest.mark.slow
def test_declarations_equal_the_official_header(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    include = fetch_headers(tmp_path / "apt")
    api, op = functions("OrtApi"), functions("OrtCustomOp")
    assert len(api) == len(re.findall(r"^QC_SLOT\(", TEXT, re.MULTILINE))
    assert len(op) == 21
    lines = [f"CHECK_FUNCTION(OrtApi, {name});" for name in api]
    lines += [f"CHECK_FUNCTION(OrtCustomOp, {name});" for name in op]
    lines += [f"CHECK_FUNCTION(OrtApiBase, {name});" for name in functions("OrtApiBase")]
    lines += [f"CHECK_VALUE({theirs}, {ours});" for theirs, ours in VALUES.items()]
    assert compile_check(tmp_path, include, lines) == ""
    others = [theirs for theirs in VALUES if not theirs.endswith("INT64")]
    wrong = [f"CHECK_VALUE({theirs}, kInt64);" for theirs in others]
    assert "another value" in compile_check(tmp_path, include, wrong)
    pair = "decltype(::OrtApi::CreateStatus), decltype(qcompile::ort::OrtApi::ReleaseStatus)"
    moved = [f'static_assert(same_signature<{pair}>(), "other arguments");']
    assert "other arguments" in compile_check(tmp_path, include, moved)


def compile_check(folder: Path, include: Path, lines: list[str]) -> str:
    """What the compiler says of the checks; empty when all hold."""
    source = folder / "abi_check.cc"
    source.write_text('#include "abi_check.h"\n' + "\n".join(lines) + "\n")
    paths = (include, HEADER.parent, Path(__file__).parent)
    command = ["g++", "-std=c++17", "-fsyntax-only", *(f"-I{p}" for p in paths), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr
