# SPDX-License-Identifier: Apache-2.0
"""Artifact: what ships: a folder with model.onnx, model.onnx.data, op library and manifest.json."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

import qcompile.runtime_ops as runtime_ops
from qcompile.array_session import ArraySession
from qcompile.errors import InputError, RefusedError
from qcompile.load import read
from qcompile.manifest import NETWORK, mismatch
from qcompile.network_session import NetworkSession, emulated_network, open_network
from qcompile.provenance import attach
from qcompile.session import session_options

MANIFEST = "manifest.json"
MODEL = "model.onnx"
LIBRARY = "network.so"  # of targets that make one
WEIGHTS = "model.onnx.data"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk.

    `content` is byte-equal for the same input, versions and seed; `measured` is not.
    """

    folder: Path
    content: dict[str, Any]
    measured: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> "Artifact":
        """The artifact in a folder; InputError when there is none or a file is not as it was."""
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(f"{folder} is no qcompile artifact: it has no {MANIFEST}")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        except ValueError as error:  # no JSON, or no UTF-8
            raise InputError(f"{path} is damaged: {error}: compile the model again") from None
        version = data.get("manifest_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version != MANIFEST_VERSION:
            raise InputError(
                f"{path} has manifest version {version}; this qcompile reads {MANIFEST_VERSION}: "
                "compile the model again"
            )
        missing = _missing(data) or mismatch(data)
        if missing is not None:
            raise InputError(f"{path} is damaged: {missing}: compile the model again")
        for name, facts in data["content"]["files"].items():
            _check_file(folder, name, facts)
        return cls(folder, data["content"], data["measured"])

    def write_manifest(self) -> None:
        """Write manifest.json, sorted, so that equal content gives equal bytes."""
        data = {
            "manifest_version": MANIFEST_VERSION,
            "content": self.content,
            "measured": self.measured,
        }
        text = json.dumps(plain(data), indent=1, sort_keys=True, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def model(self) -> ir.Model:
        """The compiled graph, its nodes and values marked with what they stand for.

        Of a library: a graph with its inputs and outputs, and no nodes.
        """
        if (facts := self.content.get("network")) is not None:
            return _shell(facts)
        model = read(self.folder / MODEL)
        attach(model, self.content.get("provenance", {}))
        return model

    @property
    def model_bytes(self) -> int:
        """Bytes on disk of the model and its weights, without op library, runtime and manifest."""
        parts = MODEL, WEIGHTS, LIBRARY
        return sum(f["bytes"] for n, f in self.content["files"].items() if n in parts)


def plain(data: Any) -> Any:
    """The data as JSON can say it: infinities and NaN as words, tuples as lists.

    >>> plain({"sqnr_db": float("inf"), "worst": (("a", 1.5),)})
    {'sqnr_db': 'inf', 'worst': [['a', 1.5]]}
    """
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


_CONTENT = {
    **{"source": dict, "target": str, "preset": str, "files": dict},
    **{"coverage": float, "nodes": list, "float_nodes": dict, "notes": list},
}


def _missing(data: Any) -> str | None:
    """What a manifest lacks, or None."""
    if not isinstance(data, dict) or not isinstance(data.get("content"), dict):
        return 'it has no "content"'
    if not isinstance(data.get("measured"), dict) or "manifest_version" not in data:
        return 'it has no "measured" or no "manifest_version"'
    content = data["content"]
    for key, kind in _CONTENT.items():
        if not isinstance(content.get(key), kind):
            return f'content has no "{key}"'
    network = content.get("network")
    if network is None and not isinstance(content.get("onnx"), dict):
        return 'content has no "onnx"'
    if problem := mismatch(network, NETWORK, "network") if network is not None else None:
        return problem
    needed = {MODEL} if network is None else {LIBRARY, network["library"], *network["runtime"]}
    if lost := sorted(needed - set(content["files"])):
        return f"files has no {lost[0]}"
    for name, facts in content["files"].items():
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= set(facts):
            return f"{name} has no bytes or no sha256"
    library = content.get("library", "")
    if library is not None and (not isinstance(library, dict) or "abi" not in library):
        return 'content has no "library"'
    names = list(content["files"])  # a damaged name may be of a kind that no dict takes
    if library is not None and library.get("file") not in names:
        return f"the library {library.get('file')} is not among its files"
    return None


def _check_file(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """The file is there and has its size; its bytes are compared by verify only."""
    there = folder / name
    if Path(name).name != name or not there.is_file():
        raise InputError(f"{folder}: {name} of the manifest does not exist")
    size = there.stat().st_size
    if size != facts["bytes"]:
        raise InputError(
            f"{there} has {size} bytes; the manifest says {facts['bytes']}: compile the model again"
        )


def _shell(facts: dict[str, Any]) -> ir.Model:
    """Inputs and outputs of a network."""
    ports = [
        ir.val(p["name"], ir.DataType.FLOAT, ["n", *p["dims"]])
        for p in (facts["input"], facts["output"])
    ]
    graph = ir.Graph(ports[:1], ports[1:], nodes=[], opset_imports={"": 20}, name="network")
    return ir.Model(graph, ir_version=9)


def _load_network(
    artifact: Artifact, facts: dict[str, Any], threads: int | None, *, trust: bool, emulate: bool
) -> NetworkSession:
    if not trust:
        raise InputError(
            f"{artifact.folder} holds a library, which is code: load it with trust_library=True if "
            "you trust whoever built it"
        )
    if emulate:
        return emulated_network(artifact.folder, artifact.content["target"], facts)
    return open_network(artifact.folder, facts, threads)


def sha256(path: Path) -> str:
    """The file's digest, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(
    folder: str | Path,
    threads: int | None = None,
    trust_library: bool = False,
    emulate: bool = False,
    options: ort.SessionOptions | None = None,
) -> ort.InferenceSession:
    """A ready InferenceSession of an artifact; bfloat16 and narrower types are ml_dtypes arrays.

    The installed op library runs it; the copy inside the artifact is code and is loaded only with
    trust_library=True. A network (targets tvm-cpu and t4) is a library, and is never loaded without
    it; its session takes any number of samples, and run(…, raw=True) gives integers. `emulate` runs
    the kernels of target t4 on the CPU, from the source in the artifact, which is code as well;
    other targets refuse it. `options` replaces the session's options, `threads` among them; a
    network has none.
    """
    artifact = Artifact.read(folder)
    if (facts := artifact.content.get("network")) is not None:
        return _load_network(artifact, facts, threads, trust=trust_library, emulate=emulate)
    if emulate:
        target = artifact.content["target"]
        raise InputError(f"target {target} has nothing to emulate: leave out emulate")
    options = options or session_options(threads)
    library = artifact.content["library"]
    if library is not None and trust_library:
        options.register_custom_ops_library(str((Path(folder) / library["file"]).absolute()))
    elif library is not None:
        if library["abi"] != runtime_ops.ABI:
            raise InputError(
                f"{folder} needs op library ABI {library['abi']}; this qcompile has "
                f"{runtime_ops.ABI}: compile it again, or load it with trust_library=True"
            )
        runtime_ops.register(options)
    try:
        return ArraySession(Path(folder) / MODEL, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ORT raises many types; all carry one readable message
        cure = "\ngive their library with --op-library (qcompile.use_op_library)"
        cure = cure if "is not a registered function/op" in str(error) else ""
        raise InputError(f"{folder}: ONNX Runtime refuses the model: {error}{cure}") from None


def open_emitted(artifact: Artifact) -> ort.InferenceSession:
    """The artifact as a user opens it; where ONNX Runtime refuses it, qcompile is wrong."""
    try:
        return load(artifact.folder, threads=1)
    except InputError as error:
        raise RefusedError("the artifact", error) from None
