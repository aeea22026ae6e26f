# SPDX-License-Identifier: Apache-2.0
"""Trains the digits model and writes models/digits.onnx. Needs torch and onnx.

    python -m models.train_digits
    python -m models.train_digits --write-data  # only digits_data.npz, from scikit-learn

The seed is fixed, but another CPU or another torch rounds differently: the file then has other
weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from models import digits
from models.files import FOLDER, open_session, sha256

EPOCHS = 60
BATCH = 64
LEARNING_RATE = 4e-3
SEED = 0


class Residual(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))); [N, C, H, W] to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block; shapes as above."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Separable(nn.Module):
    """Depthwise 3x3 of stride 2, then pointwise; [N, C, H, W] to [N, D, H/2, W/2]."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, 3, stride=2, padding=1, groups=channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block; shapes as above."""
        y = nn.functional.relu6(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(y)))


class Digits(nn.Module):
    """image [N, 1, 8, 8] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(24)
        self.residual1 = Residual(24)
        self.separable = Separable(24, 48)
        self.residual2 = Residual(48)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(48, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The model; shapes as above."""
        x = torch.relu(self.stem_bn(self.stem(image)))  # [N, 24, 8, 8]
        x = self.separable(self.residual1(x))  # [N, 48, 4, 4]
        x = self.pool(self.residual2(x))  # [N, 48, 1, 1]
        return self.head(x.flatten(1))


def write_data() -> None:
    """Writes digits_data.npz: scikit-learn's digits in the order of a seeded permutation."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))
    images = bunch.images[order].astype(np.uint8)  # [1797, 8, 8]
    labels = bunch.target[order].astype(np.uint8)  # [1797]
    target = FOLDER / "digits_data.npz"
    np.savez_compressed(target, images=images, labels=labels)
    print(f"{target}: {target.stat().st_size} bytes, sha256 {sha256(target)}")


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images [n, 1, 8, 8], each moved by -1, 0 or 1 pixels along both axes; zeros move in."""
    count = len(images)
    padded = nn.functional.pad(images, (1, 1, 1, 1))[:, 0]  # [n, 10, 10]
    offsets = torch.randint(0, 3, (2, count), generator=generator)
    rows = offsets[0, :, None, None] + torch.arange(8)[None, :, None]
    columns = offsets[1, :, None, None] + torch.arange(8)[None, None, :]
    return padded[torch.arange(count)[:, None, None], rows, columns][:, None]


def train(build: Callable[[], nn.Module] = Digits) -> nn.Module:
    """The trained model, in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, labels = (torch.from_numpy(part) for part in digits.data("train"))
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            logits = model(shifted(images[chosen], generator))
            loss = nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: training loss {total / len(images):.4f}", flush=True)
    return model.eval()


def export(model: nn.Module, target: Path) -> None:
    """Writes the file (opset 17, IR 8) and checks that onnxruntime computes what torch does."""
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        target,
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        # Evaluation mode, but without folding the batch norms. (A warning about constant folding
        # does not concern us: this graph has nothing to fold but the bounds of its Clip.)
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    graph = onnx.load(target)
    graph.ir_version = 8
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, target)

    images, _ = digits.data("test")
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    session = open_session(target)
    for count in (1, 7, len(images)):
        (logits,) = session.run(["logits"], {"image": images[:count]})
        np.testing.assert_allclose(logits, expected[:count], atol=1e-4, rtol=1e-4)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{target}: {parameters} parameters, {target.stat().st_size} bytes, sha256 {sha256(target)}"
    )
    print(f"test accuracy {digits.accuracy(session):.2f} %")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains models/digits.onnx.")
    parser.add_argument(
        "--write-data", action="store_true", help="only write digits_data.npz again"
    )
    if parser.parse_args().write_data:
        write_data()
        return
    torch.set_num_threads(1)
    export(train(), digits.path())


if __name__ == "__main__":
    main()
