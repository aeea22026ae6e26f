# SPDX-License-Identifier: Apache-2.0
"""Calibration data that does not fit: exit code 2, every problem in one message."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile.errors import InputError
from tests.cli.run import names, run
from tests.pipeline.nets import Net, mlp, samples, tied

ROW = np.zeros((4, 64), np.float32)


def npz(**arrays: NDArray) -> Callable[[], str]:
    def make() -> str:
        np.savez("data.npz", allow_pickle=True, **arrays)  # type: ignore[arg-type]
        return "data.npz"

    return make


def raw(data: bytes, name: str = "data.npz") -> Callable[[], str]:
    def make() -> str:
        Path(name).write_bytes(data)
        return name

    return make


def npy(array: NDArray) -> Callable[[], str]:
    def make() -> str:
        np.save("data.npy", array, allow_pickle=True)
        return "data.npy"

    return make


def cut_short() -> str:
    np.savez("data.npz", x=ROW)
    path = Path("data.npz")
    path.write_bytes(path.read_bytes()[:-40])
    return "data.npz"


def folder() -> str:
    Path("samples").mkdir()
    Path("samples/readme.txt").write_text("nothing here")
    return "samples"


def text(value: str) -> Callable[[], str]:
    return lambda: value


NOT_LOADED = "it holds Python objects (pickle), which are never loaded"
NAN = np.full((4, 64), np.nan, np.float32)
CASES: dict[str, tuple[Callable[[], str], str]] = {
    "missing": (
        text("gone.npz"),
        "calibration data gone.npz: no such file or folder (MODULE:FUNCTION has a colon)",
    ),
    "folder": (folder, "calibration data samples: the folder has no .npz or .npy file"),
    "wrong name": (
        npz(X=ROW),
        "calibration data data.npz:\n"
        '  "X" is no input of the model: known: x\n'
        '  input "x" is missing',
    ),
    "wrong shape": (
        npz(x=np.zeros((4, 63), np.float32)),
        'calibration data data.npz: "x" has the shape [4, 63]; the model takes [n, 64]',
    ),
    "wrong rank": (
        npz(x=np.zeros(64, np.float32)),
        'calibration data data.npz: "x" has the shape [64]; the model takes [n, 64]',
    ),
    "wrong dtype": (
        npz(x=np.zeros((4, 64), np.int64)),
        'calibration data data.npz: "x" is int64; the model takes float32',
    ),
    "complex": (
        npz(x=np.zeros((4, 64), np.complex64)),
        'calibration data data.npz: "x" holds complex64 values; the model takes float32',
    ),
    "empty": (
        npz(x=np.zeros((0, 64), np.float32)),
        'calibration data data.npz: "x" is empty: its shape is [0, 64]',
    ),
    "nan": (npz(x=NAN), 'calibration data data.npz: "x" holds NaN or infinity'),
    "all at once": (
        npz(x=NAN[:, :5], y=ROW, z=ROW),
        "calibration data data.npz:\n"
        '  "y" is no input of the model: known: x\n'
        '  "z" is no input of the model: known: x\n'
        '  "x" has the shape [4, 5]; the model takes [n, 64]\n'
        '  "x" holds NaN or infinity',
    ),
    "pickled npz": (
        npz(x=np.array([{"a": 1}], object)),
        f"calibration data data.npz: {NOT_LOADED}",
    ),
    "pickled npy": (
        npy(np.array([{"a": 1}], object)),
        f"calibration data data.npy: {NOT_LOADED}",
    ),
    "text": (raw(b"x,y\n1,2\n"), f"calibration data data.npz: {NOT_LOADED}"),
    "no bytes": (
        raw(b""),
        "calibration data data.npz: no readable .npz or .npy: it is damaged or cut short",
    ),
    "no zip": (
        raw(b"PK\x03\x04 and no more"),
        "calibration data data.npz: no readable .npz or .npy: it is damaged or cut short",
    ),
    "cut short": (
        cut_short,
        "calibration data data.npz: no readable .npz or .npy: it is damaged or cut short",
    ),
    "no module": (
        text("no_such_module:f"),
        "calibration data no_such_module:f: No module named 'no_such_module'",
    ),
    "no function": (
        text("my_samples:gone"),
        "calibration data my_samples:gone: module 'my_samples' has no attribute 'gone'",
    ),
    "module raises": (
        text("my_broken_samples:f"),
        "calibration data my_broken_samples:f: SystemExit: no camera",
    ),
    "function raises": (
        text("my_samples:raises"),
        "calibration data my_samples:raises: RuntimeError: the camera is off",
    ),
    "generator raises": (
        text("my_samples:breaks"),
        "calibration data my_samples:breaks: OSError: the disk is gone",
    ),
    "no iterable": (
        text("my_samples:number"),
        "calibration data my_samples:number: int is no path, mapping or iterable",
    ),
    "no mapping": (
        text("my_samples:arrays"),
        "calibration data my_samples:arrays: a sample is a mapping of input name to array, "
        "found ndarray",
    ),
    "no samples": (
        text("my_samples:nothing"),
        "calibration data: no samples (the leading axis counts them)",
    ),
}
MODULE = """
import numpy as np
ROW = np.zeros((4, 64), np.float32)
def raises(): raise RuntimeError("the camera is off")
def breaks():
    yield {"x": ROW}
    raise OSError("the disk is gone")
def number(): return 5
def arrays(): return [ROW]
def nothing(): return []
def good(): return [{"x": ROW + i} for i in range(3)]
class Reader:
    def __init__(self): self.left = 3
    def get_next(self):
        self.left -= 1
        return {"x": ROW} if self.left >= 0 else None
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_samples.py").write_text(MODULE)
    Path("my_broken_samples.py").write_text("raise SystemExit('no camera')")
    return mlp().save(Path("m.onnx"))


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = CASES[case]
    data = make()
    result = run(capsys, model, "--calibration-data", data)
    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")
    assert not [n for n in names(Path()) if ".qc" in n]


@pytest.mark.parametrize("source", ["my_samples:good", "my_samples:Reader", "samples", "one.npy"])
def test_sources(source: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("samples").mkdir()
    np.savez("samples/a.npz", x=ROW)
    np.save("samples/b.npy", ROW)
    np.save("one.npy", ROW)
    result = run(capsys, model, "--preset", "w8a8", "--calibration-data", source, "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")


def refusal(net: Net, data: dict[str, NDArray], folder: Path) -> str:
    """The message of compiling the net with the data."""
    with pytest.raises(InputError) as caught:
        qcompile.compile(net.save(folder / "m.onnx"), calibration_data=data)
    return str(caught.value)


def test_too_few_for_a_fixed_batch(tmp_path: Path) -> None:
    found = refusal(mlp(batch=8), {"x": ROW}, tmp_path)
    assert found == 'calibration data: "x" has 4 samples; the model\'s batch is fixed at 8'


def test_different_counts(tmp_path: Path) -> None:
    net = Net()
    left, right = net.input("a", ["batch", 64]), net.input("b", ["batch", 64])
    net.linear(net.node("Add", [left, right], "s"), 64, 8, "y")
    net.output("y", ["batch", 8])
    found = refusal(net, {"a": ROW, "b": ROW[:3]}, tmp_path)
    assert found == "calibration data: the inputs have different numbers of samples: a 4, b 3"


def test_index_out_of_the_table(tmp_path: Path) -> None:
    found = refusal(tied(), {"tokens": np.full((2, 5), 40)}, tmp_path)
    assert found.startswith("ONNX Runtime fails on the data: ")
    assert found.endswith("\ngive data that it takes")


def test_numbers_too_large_for_the_input(tmp_path: Path) -> None:
    net = tied()
    net.inputs[0].type.tensor_type.elem_type = 6  # int32
    found = refusal(net, {"tokens": np.full((2, 5), 2**40)}, tmp_path)
    assert found == (
        'calibration data: "tokens" holds 1099511627776 to 1099511627776, '
        "more than int32 of the model can"
    )


def test_npy_of_several_inputs(tmp_path: Path) -> None:
    net = mlp()
    net.node("Mul", ["y", net.input("z", ["batch", 16])], "w")
    net.output("w", ["batch", 16])
    np.save(tmp_path / "x.npy", ROW)
    with pytest.raises(InputError) as caught:
        qcompile.compile(net.save(tmp_path / "m.onnx"), calibration_data=tmp_path / "x.npy")
    name = f"calibration data {tmp_path / 'x.npy'}"
    assert str(caught.value) == f"{name}: a .npy fits one input; the model has x, z"


def test_number_of_samples_is_limited(tmp_path: Path) -> None:
    recipe = qcompile.Recipe(preset="w8a8", num_calibration_samples=3)
    data = samples(mlp(), 8)
    path = mlp().save(tmp_path / "m.onnx")
    limited = qcompile.compile(path, recipe=recipe, calibration_data=data, output=tmp_path / "a")
    first = {"x": data["x"][:3]}
    short = qcompile.compile(path, recipe=recipe, calibration_data=first, output=tmp_path / "b")
    assert limited.content["files"] == short.content["files"]
