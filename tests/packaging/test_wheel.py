# SPDX-License-Identifier: Apache-2.0
"""A user's three ways to install work outside the source tree: wheel, `pip install .`, `-e .`.

Nothing is downloaded: the new environment sees the installed dependencies through links, all but
qcompile itself, so what these tests import can only come from the installation under test. All
builds are of one place and share one build folder, so the op library is compiled once.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.source_tree import ROOT

# The group keeps all on one worker, else each worker compiles the library.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]

NOT_SOURCE = ("build", "dist", "__pycache__", "*.so", "*.qc")
PROBE = """
import sys
from pathlib import Path
import qcompile, qcompile.passes, qcompile.targets, qcompile.runtime_ops
print(Path(qcompile.__file__).parent)
print(qcompile.runtime_ops.library_path())
print(sum(name.split(".")[0] in ("passes", "targets", "runtime_ops") for name in sys.modules))
"""


def output_of(*command: object, cwd: Path) -> str:
    """What a command prints; its whole output when it fails."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree as a clone has it, with its symlinks."""
    copy = tmp_path_factory.mktemp("clone") / "qcompile"
    ignore = shutil.ignore_patterns(".*", *NOT_SOURCE)
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / ".gitignore", copy)
    return copy


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a new environment without qcompile."""
    environment = tmp_path / "venv"
    output_of(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    links = tmp_path / "dependencies"
    links.mkdir()
    for installed in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(installed).iterdir():
            if "qcompile" not in entry.name:
                (links / entry.name).symlink_to(entry)
    python = environment / "bin" / "python"
    get_purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(output_of(python, "-c", get_purelib, cwd=tmp_path).strip())
    (purelib / "dependencies.pth").write_text(f"{links}\n", encoding="utf-8")
    return python


def pip(python: Path, *arguments: object, source: Path) -> None:
    """Run pip without downloads, building where the other tests build."""
    build = f"build-dir={source.parent / 'build'}"
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "-C", build)
    output_of(python, "-m", "pip", *arguments, *offline, cwd=source.parent)


def check_installation(python: Path, package: Path) -> None:
    """The command and the library load from an unrelated folder, and come from `package`."""
    elsewhere = python.parent
    assert output_of(python.parent / "qcompile", "--version", cwd=elsewhere).strip()
    home, library, num_second_copies = output_of(python, "-c", PROBE, cwd=elsewhere).split()
    environment = python.parents[1]
    assert Path(home) == package
    assert Path(library).is_relative_to(environment)
    assert Path(library).is_file()
    assert int(num_second_copies) == 0


def site_packages(python: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python.parents[1] / "lib" / version / "site-packages"


def test_wheel(source: Path, python: Path, tmp_path: Path) -> None:
    pip(python, "wheel", source, "-w", tmp_path, source=source)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    library = "qcompile/runtime_ops/libqcompile_ops.so"

    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert library in names
    assert "qcompile/runtime_ops/kernels/kernels.inc" in names
    assert any(n.startswith("qcompile/passes/normalise/") for n in names)
    # Once each, nothing beside the package, no sources of the library.
    assert len(set(names)) == len(names)
    tops = {n.partition("/")[0].partition("-")[0] for n in names}
    assert tops == {"qcompile"}
    suffixes = {Path(n).suffix for n in names if ".dist-info/" not in n}
    assert suffixes <= {".py", ".inc", ".so", ".typed"}

    pip(python, "install", wheel, source=source)
    check_installation(python, site_packages(python) / "qcompile")


def test_source_archive_holds_what_a_build_needs(
    source: Path, python: Path, tmp_path: Path
) -> None:
    """In the clone's place, where only a file that is missing or another is compiled again."""
    build = f"from scikit_build_core.build import build_sdist; build_sdist({str(tmp_path)!r})"
    output_of(python, "-c", build, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for file in (p for p in unpacked.rglob("*") if p.is_file() and p.name != "PKG-INFO"):
        assert file.read_bytes() == (source / file.relative_to(unpacked)).read_bytes(), file

    kept = source.rename(source.with_name("kept"))
    try:
        shutil.move(unpacked, source)
        pip(python, "install", source, source=source)
        check_installation(python, site_packages(python) / "qcompile")
    finally:
        shutil.rmtree(source, ignore_errors=True)
        kept.rename(source)


def test_install_from_a_clone(source: Path, python: Path) -> None:
    pip(python, "install", source, source=source)
    check_installation(python, site_packages(python) / "qcompile")


def test_editable_install_of_a_clone(source: Path, python: Path) -> None:
    pip(python, "install", "-e", source, source=source)
    check_installation(python, source / "qcompile")
