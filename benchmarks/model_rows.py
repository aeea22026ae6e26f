# SPDX-License-Identifier: Apache-2.0
"""The whole models of benchmarks.kernels: ours, ONNX Runtime and OpenVINO, and the goal of each.

The models are those of models/zoo, in full size with random weights, and calibrated on random
samples: speed does not depend on either. OpenVINO's int8 model is ONNX Runtime's, which it reads.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import qcompile
from benchmarks.interleave import Candidate, idle_options
from benchmarks.kernel_openvino import bound_request, cpu_options
from benchmarks.limits import Limits
from benchmarks.networks import ort_int8, plain
from benchmarks.work import LIMIT, OURS, PEERS, Peer, Run, Work
from models.zoo import ZOO
from models.zoo.samples import samples
from qcompile.artifact import Artifact
from qcompile.profile import profile
from qcompile.recipe import Preset

NUM_SAMPLES = 8


@dataclass(frozen=True)
class ModelRow:
    """A model of the zoo at a preset; `factor` and `against` as in Work."""

    model: str
    preset: str
    factor: float
    against: str

    @property
    def name(self) -> str:
        """As printed."""
        return f"model {self.model} {self.preset}"


MODEL_ROWS = (
    ModelRow("resnet50", "w8a8", 0.95, "OpenVINO int8"),
    # Without VNNI the widest weights whose products fit 16 bits in pairs, as OpenVINO adds them.
    ModelRow("resnet50", "w7a8", 0.95, "OpenVINO int8"),
    ModelRow("resnet50", "w4a8", 1.03, "ours w8a8"),
    ModelRow("resnet50", "w2a8", 1.03, "ours w8a8"),
    ModelRow("mobilenetv2", "w8a8", 0.75, PEERS),
    ModelRow("deit", "w8a8", 0.8, "OpenVINO int8"),
)


class Models:
    """Files of the models in a temporary folder, made when they are first wanted."""

    def __init__(self, threads: int, *, tiny: bool = False) -> None:
        self.threads, self._tiny = threads, tiny
        self._folder = tempfile.TemporaryDirectory(prefix="qcompile-models-")
        self.artifact = functools.cache(self._artifact)
        self.source = functools.cache(self._source)
        self.ort_int8 = functools.cache(self._ort_int8)

    def _source(self, name: str) -> tuple[Path, dict[str, np.ndarray]]:
        """The float model, and samples of its input by name."""
        model = ZOO[name].build(tiny=self._tiny)
        folder = Path(self._folder.name) / name
        folder.mkdir()
        ir.save(model, folder / "model.onnx")
        return folder / "model.onnx", samples(model, NUM_SAMPLES, 0)

    def float_file(self, name: str) -> Path:
        """The model alone."""
        return self.source(name)[0]

    def _artifact(self, name: str, preset: str) -> Artifact:
        """Compiled with the nearest codes, which is quick, and as fast as any others."""
        path, fed = self.source(name)
        recipe = qcompile.Recipe(preset=preset, weight_rounding="nearest")
        out = path.parent / f"{preset}.qc"
        return qcompile.compile(path, "cpu", out, recipe=recipe, calibration_data=fed)

    def _ort_int8(self, name: str) -> Path:
        path, fed = self.source(name)
        (values,) = fed.values()
        return ort_int8(path, values, path.parent)

    def feed(self, name: str) -> dict[str, np.ndarray]:
        """One sample."""
        return {each: values[:1] for each, values in self.source(name)[1].items()}

    def ours(self, name: str, preset: str) -> list[Run]:
        """The artifact as a user loads it."""
        options = idle_options(self.threads)
        session = qcompile.load(self.artifact(name, preset).folder, options=options)
        return [functools.partial(session.run, None, self.feed(name))]

    def products(self, name: str, preset: str) -> int:
        """Integer multiplications of a run."""
        nodes = profile(self.artifact(name, preset).folder, self.threads, seconds=0.01).nodes
        return sum(node.products for node in nodes)


def model_work(row: ModelRow, models: Models, limits: Limits, *, has_openvino: bool) -> Work:
    """The line of a model; its limit are its integer products at the probe's speed."""
    bits = Preset.parse(row.preset).weight_bits

    def limit() -> Candidate:
        found = limits.products(models.products(row.model, row.preset), bits)
        return Candidate(LIMIT, found.runs, found.scale)

    def ours() -> Candidate:
        return Candidate(OURS, models.ours(row.model, row.preset))

    peers = list(_ort_peers(row, models))
    if has_openvino:
        peers += _openvino_peers(row.model, models)
    facts = functools.partial(_sizes, row, models)
    return Work(row.name, row.factor, row.against, ours, tuple(peers), limit, facts)


def _ort_peers(row: ModelRow, models: Models) -> Iterator[Peer]:
    """float32, its own static int8, and ours at 8 bits where the row is of fewer."""
    model = row.model

    def runs(path: Callable[[str], Path]) -> list[Run]:
        session = plain(path(model), models.threads)
        return [functools.partial(session.run, None, models.feed(model))]

    yield Peer("ORT float32", (model,), functools.partial(runs, models.float_file))
    yield Peer("ORT int8 QDQ", (model,), functools.partial(runs, models.ort_int8))
    if row.preset != "w8a8":
        yield Peer(f"{OURS} w8a8", (model,), functools.partial(models.ours, model, "w8a8"))


def _openvino_peers(model: str, models: Models) -> Iterator[Peer]:
    """float32, the default precision where that is another one, and int8."""
    import openvino as ov

    core = ov.Core()
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT")

    def runs(path: Callable[[str], Path], precision: ov.Type) -> list[Run]:
        read, feed = core.read_model(path(model)), models.feed(model)
        read.reshape({name: list(x.shape) for name, x in feed.items()})
        options = cpu_options(models.threads) | {"INFERENCE_PRECISION_HINT": precision}
        request = core.compile_model(read, "CPU", options).create_infer_request()
        return [bound_request(request, feed)]

    for precision in dict.fromkeys((ov.Type.f32, default)):
        name = {ov.Type.f32: "float32"}.get(precision, precision.to_string())
        build = functools.partial(runs, models.float_file, precision)
        yield Peer(f"OpenVINO {name}", (model,), build)
    yield Peer("OpenVINO int8", (model,), functools.partial(runs, models.ort_int8, default))


def _sizes(row: ModelRow, models: Models) -> dict[str, Any]:
    """Bytes on disk, and the packed bytes of the layers of fewer bits as a part of those at 8."""
    artifact = models.artifact(row.model, row.preset)
    facts: dict[str, Any] = {"artifact_bytes": artifact.model_bytes}
    if row.preset == "w8a8":
        return facts
    bits = Preset.parse(row.preset).weight_bits
    wide = models.artifact(row.model, "w8a8").content["nodes"]
    before = {node["node"]: node["packed_bytes"] for node in wide if "packed_bytes" in node}
    nodes = [
        node
        for node in artifact.content["nodes"]
        if (node.get("weight") or "").startswith(f"int{bits}/")
    ]
    part = sum(n["packed_bytes"] for n in nodes) / sum(before[n["node"]] for n in nodes)
    verdict = "reached" if part <= bits / 8 else "missed"
    return facts | {"part_of_w8a8_bytes": part, "part_goal": bits / 8, "part_verdict": verdict}
