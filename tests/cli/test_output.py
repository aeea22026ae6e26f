# SPDX-License-Identifier: Apache-2.0
"""Where the artifact goes: whole or not at all, and nothing else is touched."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qcompile
from qcompile import emit
from tests.cli.run import names, run
from tests.pipeline.nets import mlp

FILES = ["libqcompile_ops.so", "manifest.json", "model.onnx", "model.onnx.data"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(qcompile.__file__).parents[1]))
    return mlp().save(Path("m.onnx"))


def artifact_bytes(folder: Path) -> bytes:
    return b"".join((folder / name).read_bytes() for name in FILES if name != "manifest.json")


@pytest.mark.parametrize("out", ["m.qc", "a folder/the Ärtefakt.qc", "x/y/../z", "plain"])
def test_relative_paths(out: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, model, "-o", out, "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert sorted(p.name for p in Path(out).iterdir()) == FILES
    assert Path(out).stat().st_mode & 0o777 == 0o777 & ~emit._umask()
    qcompile.load(out)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("my model é.onnx", "my model é.qc"),
        ("net.v2.onnx", "net.v2.qc"),
        ("net.v2", "net.v2.qc"),
        ("-net.onnx", "-net.qc"),
        ("compile.onnx", "compile.qc"),
    ],
)
def test_default_folder(
    name: str, folder: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model.rename(name).absolute()
    assert run(capsys, path, "--quiet").code == 0
    assert names(Path()) == sorted([name, folder, *(f"{folder}/{f}" for f in FILES)])


def test_exists(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.qc").mkdir()
    result = run(capsys, model)
    out = Path("m.qc").absolute()
    message = f"{out} exists: give --force to replace it, or another -o"
    assert (result.code, result.err) == (2, f"error: {message}\n")
    assert run(capsys, model, "--force", "--quiet").code == 0


def test_exists_is_said_before_the_model_is_read(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.write_bytes(b"no model")
    Path("m.qc").mkdir()
    assert "exists: give --force" in run(capsys, model).err


def test_force_replaces_an_artifact(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, model, "--quiet").code == 0
    before = artifact_bytes(Path("m.qc"))
    Path("m.qc/note.txt").write_text("mine")
    assert run(capsys, model, "--quiet", "--force", "--preset", "w4a16").code == 0
    assert artifact_bytes(Path("m.qc")) != before
    assert names(Path()) == ["m.onnx", "m.qc", *(f"m.qc/{f}" for f in FILES)]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_force_replaces_nothing_else(
    kind: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path("m.qc").absolute()
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    elif kind == "file":
        out.write_text("years of work")
    else:
        out.symlink_to("nowhere")
    before = names(Path())
    result = run(capsys, model, "--force")
    message = (
        f"{out} exists and is no qcompile artifact, so --force does not replace it: "
        "remove it, or give another -o"
    )
    assert (result.code, result.err) == (2, f"error: {message}\n")
    assert names(Path()) == before


def test_model_inside_the_output(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, model, "--quiet").code == 0
    inside = model.rename("m.qc/source.onnx")
    result = run(capsys, inside, "-o", "m.qc", "--force")
    message = "m.qc/source.onnx lies in the output folder m.qc: give another -o"
    assert (result.code, result.err) == (2, f"error: {message}\n")
    assert inside.is_file()


def test_parent_is_a_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, model, "-o", "m.onnx/out.qc")
    out = Path("m.onnx/out.qc").absolute()
    message = f"{out}: cannot write there: File exists"
    assert (result.code, result.err) == (2, f"error: {message}\n")


def test_parent_is_not_writable(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # root may write anywhere

    monkeypatch.setattr(emit.tempfile, "mkdtemp", refuse)
    result = run(capsys, model, "-o", "new/out.qc")
    message = f"{Path('new/out.qc').absolute()}: cannot write there: Permission denied"
    assert (result.code, result.err) == (2, f"error: {message}\n")
    assert names(Path()) == ["m.onnx"]


def broken(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "x"), 2, "{out}: the disk is full; nothing was written"),
        (OSError(errno.EDQUOT, "x"), 2, "{out}: the disk is full; nothing was written"),
        (OSError(errno.EIO, "I/O error"), 2, "{out}: I/O error; nothing was written"),
        (MemoryError(), 2, "out of memory; nothing was written"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (ZeroDivisionError("oops"), 1, "qcompile failed, which is a bug: ZeroDivisionError: oops"),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["os.fsync", "qcompile.emit.shutil.copyfile"])
def test_failure_in_the_middle(
    place: str,
    error: BaseException,
    code: int,
    message: str,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place, broken(error))
    result = run(capsys, model, "-o", "new/out.qc")
    text = message.format(out=Path("new/out.qc").absolute())
    assert (result.code, result.out) == (code, "")
    assert result.err.splitlines()[-1] == f"error: {text}"
    assert names(Path()) == ["m.onnx"]


def test_failure_keeps_the_old_artifact(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, model, "--quiet").code == 0
    before = artifact_bytes(Path("m.qc"))
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target).name == "m.qc" and ".old." not in str(target) and ".old." not in str(self):
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert run(capsys, model, "--force", "--preset", "w4a16").code == 130
    assert artifact_bytes(Path("m.qc")) == before
    assert names(Path()) == ["m.onnx", "m.qc", *(f"m.qc/{f}" for f in FILES)]


def test_disk_that_takes_no_more(model: Path) -> None:
    """A real limit on the size of files, as a full disk has."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run(
        [sys.executable, "-m", "qcompile.cli", model],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    out = Path("m.qc").absolute()
    assert done.stderr == f"error: {out}: the disk is full; nothing was written\n"
    assert (done.returncode, done.stdout, names(Path())) == (2, "", ["m.onnx"])


WAITS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job of the background ignores
from qcompile import cli
pipeline = sys.modules["qcompile.compile"]
real = pipeline.verify
def verify(*args):
    print("here", flush=True)
    time.sleep(60)
pipeline.verify = verify
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_interrupt(number: int, code: int, word: str, model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    assert [n for n in names(Path()) if n.endswith("model.onnx")] != []
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", f"error: {word}; nothing was written\n")
    assert names(Path()) == ["m.onnx"]


def test_reader_that_goes_away(model: Path) -> None:
    command = f"{sys.executable} -m qcompile.cli passes | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
