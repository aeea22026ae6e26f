# SPDX-License-Identifier: Apache-2.0
"""Flags and recipes that cannot be: exit code 2, every problem named, before any slow work."""

from pathlib import Path

import pytest

from tests.cli.run import names, run
from tests.pipeline.nets import mlp

HELP = " (see qcompile --help)"
FLAGS: dict[str, tuple[list[str], str]] = {
    "target": (["--target", "cpuu"], 'unknown target "cpuu": did you mean "cpu"?'),
    "unlike any target": (
        ["--target", "zzz"],
        'unknown target "zzz": known: cpu, ort, tvm-cpu, t4, arm64, edge, web, c',
    ),
    "reserved target": (
        ["--target", "web"],
        'target "web" is not in this build; it has: cpu, ort, tvm-cpu, t4',
    ),
    "preset": (["--preset", "w4a9"], 'unknown preset "w4a9": did you mean "w4a8"?'),
    "flag": (
        ["--presett", "w8a8"],
        f"No such option: --presett (Possible options: --preset){HELP}",
    ),
    "type of value": (
        ["--block-size", "wide"],
        "Invalid value for '--block-size': Input should be a valid integer, unable to parse "
        f"string as an integer{HELP}",
    ),
    "value missing": (["--preset"], f"Option '--preset' requires an argument.{HELP}"),
    "second model": (["other.onnx"], f"Got unexpected extra argument(s) (other.onnx){HELP}"),
    "weight format": (
        ["--weight-format", "int44"],
        'unknown format "int44": did you mean "int4"?',
    ),
    "activation format": (
        ["--activation-format", "unit8"],
        'unknown format "unit8": did you mean "uint8"?',
    ),
    "block size": (
        ["--block-size", "33"],
        "block size 33: must be a multiple of 32, at least 32",
    ),
    "edge bits": (["--edge-bits", "9"], "edge bits 9: 1 to 8 are possible"),
    "samples": (
        ["--num-calibration-samples", "0"],
        "0 calibration samples: at least 1 is needed",
    ),
    "calibration samples": (
        ["--calibration-select", "0", "--calibration-data", "x.npz"],
        "0 calibration samples: at least 1 is needed",
    ),
    "groups without a number": (
        ["--calibration-groups", "t", "--calibration-data", "x.npz"],
        "calibration groups need calibration select: how many samples to take",
    ),
    "method": (
        ["--calibration-method", "minmaxx"],
        'unknown calibration method "minmaxx": did you mean "minmax"?',
    ),
    "percentile": (
        ["--calibration-percentile", "50"],
        "calibration percentile 50: above 50, at most 100",
    ),
    "cache without data": (
        ["--calibration-cache", "c.npz"],
        "calibration cache c.npz: give the calibration data too, which it is checked against and "
        "verification runs on",
    ),
    "image flags without images": (
        ["--image-mean", "0.5", "--image-size", "8"],
        "--image-mean, --image-size: only --calibration-data images:DIR takes image flags",
    ),
    "image numbers": (
        ["--calibration-data", "images:.", "--image-std", "1,x"],
        "--image-std 1,x: numbers with commas are needed",
    ),
    "image size": (
        ["--calibration-data", "images:.", "--image-size", "8x8x3"],
        "--image-size 8x8x3: HEIGHTxWIDTH is needed",
    ),
    "images, all at once": (
        [
            *("--calibration-data", "images:gone", "--image-layout", "chw"),
            *("--image-channels", "rbg", "--image-std", "1,0,1", "--image-mean", "1,2"),
            *("--image-scale", "0", "--image-size", "0x4"),
        ],
        "images gone: no such folder\n"
        'image layout "chw": known: nchw, nhwc\n'
        'image channels "rbg": known: rgb, bgr\n'
        "image mean 1,2: 1 or 3 finite numbers\n"
        "image std 1,0,1: 0 is no divisor\n"
        "image scale 0: a number above 0\n"
        "image size 0x4: at least 1x1",
    ),
    "no limit": (["--min-sqnr", "nan"], "--min-sqnr nan: a number is needed"),
    "memory": (
        ["--max-memory", "lots"],
        'memory "lots" is no size: write for example 4GB or 512MiB',
    ),
    "metric": (
        ["--metric", "nothing"],
        "metric nothing: MODULE:FUNCTION is needed",
    ),
    "op type": (
        ["--op-types-to-quantize", "Matmul,Conv"],
        'unknown op type "Matmul": did you mean "MatMul"?',
    ),
    "seed": (["--seed", "-1"], "seed -1: 0 or more is needed"),
    "regex": (
        ["--nodes-to-exclude", "first["],
        '"first[" is no regular expression: unterminated character set at position 5 '
        "(--nodes-to-exclude)",
    ),
    "several": (
        ["--preset", "w9a8", "--block-size", "5", "--seed", "-2"],
        'unknown preset "w9a8": did you mean "w8a8"?\n'
        "block size 5: must be a multiple of 32, at least 32\n"
        "seed -2: 0 or more is needed",
    ),
    "no input range": (
        ["--input-range", "4"],
        "input range 4: LOW:HIGH is needed, or NAME=LOW:HIGH,… for several inputs",
    ),
    "no recipe": (["--recipe", "gone.yaml"], "recipe gone.yaml: No such file or directory"),
    "recipe type": (
        ["--recipe", "gone.json"],
        'recipe gone.json: ".json" is not one of .yaml, .yml, .toml',
    ),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flag(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, message = FLAGS[case]
    monkeypatch.chdir(tmp_path)
    # The model is not there: what is wrong with the flags is said before it is read.
    result = run(capsys, "m.onnx", *flags)
    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")
    assert names(tmp_path) == []


RECIPES: dict[str, tuple[str, str, str]] = {
    "key": (
        "r.yaml",
        "preset: w8a8-dynamic\nblock_sise: 32\n",
        'r.yaml line 2: unknown key "block_sise": did you mean "block_size"?',
    ),
    "rule key": (
        "r.yaml",
        "rules:\n- match: a\n  exclude: true\n- match: b\n  excluded: true\n",
        'r.yaml line 5: unknown key "excluded": did you mean "exclude"?',
    ),
    "several": (
        "r.yaml",
        "preset: w9a8\nseeds: 1\nedge_bits: many\nrules:\n- match: '['\n  wieght_format: int4\n"
        "- preset: [w4a8]\n  op_types: Conv\n",
        'r.yaml line 2: unknown key "seeds": did you mean "seed"?\n'
        "r.yaml line 3: edge_bits must be a whole number, found 'many'\n"
        'r.yaml line 6: unknown key "wieght_format": did you mean "weight_format"?\n'
        "r.yaml line 7: preset must be a word, found ['w4a8']\n"
        "r.yaml line 8: op_types must be a list of words, found 'Conv'\n"
        'r.yaml: unknown preset "w9a8": did you mean "w8a8"?\n'
        'r.yaml: "[" is no regular expression: unterminated character set at position 0 '
        "(r.yaml rule 1)",
    ),
    "twice": (
        "r.yaml",
        "seed: 1\nseed: 2\n",
        'r.yaml line 2: "seed" is also in line 1',
    ),
    "no mapping": (
        "r.yaml",
        "- preset\n",
        "recipe r.yaml: must be a mapping of keys, found a list",
    ),
    "nothing": ("r.yaml", "", "recipe r.yaml: must be a mapping of keys, found nothing"),
    "rules no list": (
        "r.yaml",
        "seed: 1\nrules:\n  match: a\n",
        "r.yaml line 2: rules must be a list of mappings",
    ),
    "bad yaml": (
        "r.yaml",
        "preset: w8a8\nrules: [\n",
        "recipe r.yaml line 3: no YAML: expected the node content, but found '<stream end>'",
    ),
    "bad toml": (
        "r.toml",
        "preset = w8a8\n",
        "recipe r.toml: no TOML: Invalid value (at line 1, column 10)",
    ),
    "toml keys": (
        "r.toml",
        'presett = "w8a8"\n\n[[rules]]\nmatch = "a"\n\n[[rules]]\nmatch = "b"\nexclud = true\n',
        'r.toml line 1: unknown key "presett": did you mean "preset"?\n'
        'r.toml line 8: unknown key "exclud": did you mean "exclude"?',
    ),
    "boolean": (
        "r.toml",
        "seed = true\nbias_correction = 1\n",
        "r.toml line 1: seed must be a whole number, found True\n"
        "r.toml line 2: bias_correction must be true or false, found 1",
    ),
    "rule without data": (
        "r.yaml",
        "preset: w4a16\nrules:\n- match: .*first.*\n  preset: w8a8\n",
        "static activations need ranges, and without calibration data the model's "
        "BatchNormalizations give none for 1 tensor\n"
        "  x: an input of the model: give --input-range LOW:HIGH\n"
        "give --calibration-data, or use a preset of dynamic activations such as w8a8-dynamic",
    ),
    "impossible": (
        "r.yaml",
        "preset: w4a16\nrules:\n- {match: .*first.*, preset: w8a8-dynamic, block_size: 32}\n"
        "- {match: .*, op_types: [Convv]}\n",
        'r.yaml: unknown op type "Convv": did you mean "Conv"? (r.yaml rule 2)',
    ),
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipe(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, text, message = RECIPES[case]
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    mlp().save(Path("m.onnx"))
    result = run(capsys, "m.onnx", "--recipe", name)
    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")
    assert names(tmp_path) == ["m.onnx", name]


def test_recipe_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    result = run(capsys, "m.onnx", "--recipe", path)
    assert (result.code, result.err) == (2, f"error: recipe {path}: it is no UTF-8 text\n")


def test_every_node_excluded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    result = run(capsys, path, "--nodes-to-exclude", ".*")
    lines = [
        "error: nothing to quantize: every weighted node stays in float",
        *(
            f"  MatMul /{name}_product/MatMul: excluded by --nodes-to-exclude"
            for name in ("first", "middle", "y")
        ),
    ]
    assert (result.code, result.err.splitlines()) == (2, lines)


def test_what_no_kernel_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    result = run(capsys, path, "--target", "ort", "--preset", "w4a16", "--weight-format", "uint3")
    lines = [
        f'MatMul "/{name}_product/MatMul": MatMulNBits takes 2, 4 and 8 bits; uint3 was asked: '
        "use --target cpu (preset w4a16)"
        for name in ("first", "middle", "y")
    ]
    assert (result.code, result.err) == (2, "error: " + "\n".join(lines) + "\n")
