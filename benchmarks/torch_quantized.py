# SPDX-License-Identifier: Apache-2.0
"""Networks that PyTorch quantized, compiled with no preset. Needs the extra `train`.

    python -m benchmarks.torch_quantized

A small network (Conv, depthwise Conv, a residual Add, MaxPool, Linear; BatchNormalization before
training) is quantized in each way that PyTorch and torchao have, exported to ONNX by torch's own
exporters, and compiled. A row says how near the numbers are: of ONNX Runtime to PyTorch's, and of
the artifact to ONNX Runtime's on the same file, without its optimisations.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn
from torch.ao.quantization import disable_observer, get_default_qat_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

import qcompile
from tests.models.zoo_runs import sqnr

STEPS = 20
ROW = "| {} | {} | {:.0f} % | {} | {} |"


class Net(nn.Module):
    """float [batch, 3, 32, 32] → [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        wise = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
        self.wise = nn.Sequential(wise, nn.BatchNorm2d(32), nn.ReLU6())
        self.point = nn.Sequential(nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.last = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.relu, self.maximum, self.mean = nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.relu(self.first(x))
        x = torch.relu(x + self.point(self.wise(x)))
        x = torch.relu(self.last(self.maximum(x)))
        return self.linear(torch.flatten(self.mean(x), 1))


def trained(module: nn.Module, x: torch.Tensor) -> None:
    """Some steps of gradient descent, that statistics and scales are not the first ones."""
    optimizer = torch.optim.SGD(module.parameters(), 1e-2)
    labels = torch.randint(0, 10, (len(x),))
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), labels).backward()
        optimizer.step()


def simulated(engine: str, x: torch.Tensor) -> nn.Module:
    """Quantization-aware training in graph mode, FakeQuantize still in it."""
    # Version 0: ONNX has no form of the fused observer of version 1.
    mapping = get_default_qat_qconfig_mapping(engine, version=0)
    module = prepare_qat_fx(Net().train(), mapping, (x,))
    trained(module, x)
    return module.eval().apply(disable_observer)


def converted(engine: str, x: torch.Tensor) -> nn.Module:
    """The same with PyTorch's own quantized operators."""
    torch.backends.quantized.engine = engine
    return convert_fx(simulated(engine, x))


def exported_graph(is_trained: bool, x: torch.Tensor) -> nn.Module:
    """torchao's quantization of exported programs (PT2E)."""
    net = Net().train(is_trained)
    settings = x86.get_default_x86_inductor_quantization_config(is_qat=is_trained)
    quantizer = x86.X86InductorQuantizer().set_global(settings)
    prepare = prepare_qat_pt2e if is_trained else prepare_pt2e
    module = prepare(torch.export.export(net, (x,)).module(), quantizer)
    if is_trained:
        trained(module, x)
    else:
        module(x)
    module = convert_pt2e(module)
    move_exported_model_to_eval(module)
    return module


WAYS: dict[str, tuple[Callable[[torch.Tensor], nn.Module], bool]] = {
    "QAT, FakeQuantize, x86": (lambda x: simulated("x86", x), False),
    "QAT, FakeQuantize, qnnpack": (lambda x: simulated("qnnpack", x), False),
    "QAT, converted, x86": (lambda x: converted("x86", x), False),
    "QAT, converted, qnnpack": (lambda x: converted("qnnpack", x), False),
    "PT2E, QAT": (lambda x: exported_graph(True, x), True),
    "PT2E, post-training": (lambda x: exported_graph(False, x), True),
}


def likeness(expected: NDArray, found: NDArray) -> str:
    """Decibels."""
    return "equal" if np.array_equal(expected, found) else f"{sqnr([expected], [found]):.1f}"


def row(way: str, folder: Path) -> str:
    """Quantize, export, compile and compare."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    make, dynamo = WAYS[way]
    module, path = make(x), folder / "model.onnx"
    more = {"dynamo": True, "external_data": False} if dynamo else {"dynamo": False}
    torch.onnx.export(
        module, (x,), path, opset_version=20 if dynamo else 17, input_names=["x"], **more
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = {"x": x.numpy()}
    theirs = ort.InferenceSession(path, options).run(None, feed)[0]
    artifact = qcompile.compile(path, output=folder / "out.qc", force=True)
    ours: NDArray[np.float32] = qcompile.load(artifact.folder).run(None, feed)[0]
    near = likeness(module(x).detach().numpy(), theirs), likeness(theirs, ours)
    exporter = "torch.export" if dynamo else "TorchScript"
    return ROW.format(way, exporter, 100 * artifact.content["coverage"], *near)


def main() -> None:
    """Print the table of docs/imported.md."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print("| quantized by | exporter | coverage | ONNX Runtime to PyTorch, dB | ours to it, dB |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            print(row(way, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
