# SPDX-License-Identifier: Apache-2.0
"""Artifact: what ships. A folder with model.onnx, model.onnx.data, the op library and manifest.json."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

import qcompile.runtime_ops as runtime_ops
from qcompile.errors import InputError
from qcompile.session import session_options

MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk. `content` is byte-equal for the same input, versions and seed; `measured` is not."""

    folder: Path
    content: dict[str, Any]
    measured: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> "Artifact":
        """The artifact in a folder; InputError when there is none or a file is missing or changed in size."""
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(f"{folder} is no qcompile artifact: it has no {MANIFEST}")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            content, measured = data["content"], data["measured"]
            version, files = data["manifest_version"], content["files"]
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is damaged: {error}") from None
        if version != MANIFEST_VERSION:
            raise InputError(
                f"{path} has manifest version {version}; this qcompile reads {MANIFEST_VERSION}"
            )
        for name, facts in files.items():
            there = folder / name
            if Path(name).name != name or not there.is_file():
                raise InputError(f"{folder}: {name} of the manifest does not exist")
            if there.stat().st_size != facts["bytes"]:
                raise InputError(
                    f"{there} has {there.stat().st_size} bytes; the manifest says {facts['bytes']}: compile the model again"
                )
        return cls(folder, content, measured)

    def write_manifest(self) -> None:
        """Write manifest.json, sorted, so that equal content gives equal bytes."""
        data = {
            "manifest_version": MANIFEST_VERSION,
            "content": self.content,
            "measured": self.measured,
        }
        text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @property
    def model_bytes(self) -> int:
        """Bytes on disk of the model and its weights, without library and manifest."""
        return sum(f["bytes"] for n, f in self.content["files"].items() if n in (MODEL, WEIGHTS))


def sha256(path: Path) -> str:
    """The file's digest, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(
    folder: str | Path,
    threads: int | None = None,
    trust_library: bool = False,
    emulate: bool = False,
) -> ort.InferenceSession:
    """A ready InferenceSession of an artifact.

    The installed op library runs it; the copy inside the artifact is code and is loaded only with trust_library=True.
    `emulate` is for targets whose hardware may be absent, and changes nothing for those of this build.
    """
    artifact = Artifact.read(folder)
    options = session_options(threads)
    library = artifact.content["library"]
    if library is not None:
        if library["abi"] != runtime_ops.ABI:
            raise InputError(
                f"{folder} needs op library ABI {library['abi']}; this qcompile has {runtime_ops.ABI}: compile it again"
            )
        if trust_library:
            options.register_custom_ops_library(str(Path(folder) / library["file"]))
        else:
            runtime_ops.register(options)
    try:
        return ort.InferenceSession(
            Path(folder) / MODEL, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ORT raises many types; all carry one readable message
        raise InputError(f"{folder}: ONNX Runtime refuses the model: {error}") from None
