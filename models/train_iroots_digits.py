# SPDX-License-Identifier: Apache-2.0
"""Trains the iroots_digits model and writes models/iroots_digits.onnx. Needs torch and onnx.

    python -m models.train_iroots_digits
    python -m models.train_iroots_digits --signs  # real weights of −s and s, as many bits

iFairy (Wang et al. 2025, section 3): a complex weight becomes the nearest of 1, i, −1, −i, times
the mean of |Re| of those that are real, or of |Im| of those that are imaginary; gradients pass as
if it were the weight. Products take the conjugate of the input. Upper and lower halves of an image
are the real and imaginary parts of 32 numbers; two layers of 128 complex numbers with
normalisations and ReLU of both parts, then a product with float weights.

The seed is fixed, but another CPU or another torch rounds differently: the file then has other
weights.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn

from models import iroots_digits
from models.train_digits import export, train

WIDTH = 128


def rooted(re: torch.Tensor, im: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both parts of the nearest roots times their scales."""
    phase, quarter = torch.atan2(im, re), math.pi / 4
    is_real = ((phase >= -quarter) & (phase < quarter)) | (phase.abs() >= 3 * quarter)
    scale_re, scale_im = re[is_real].abs().mean(), im[~is_real].abs().mean()
    return is_real * torch.sign(re) * scale_re, ~is_real * torch.sign(im) * scale_im


class Roots(nn.Module):
    """Complex numbers [N, K] to [N, M], two tensors each."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.re = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(2 * inputs))
        self.im = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(2 * inputs))
        self.is_fixed = False
        self.norms = nn.ModuleList([nn.BatchNorm1d(outputs) for _ in range(2)])

    def fix(self) -> None:
        """Parameters become the roots that they stand for."""
        with torch.no_grad():
            self.re.data, self.im.data = rooted(self.re, self.im)
        self.is_fixed = True

    def forward(self, r: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """relu(norm(conj(r + i·i) W))."""
        a, b = self.re, self.im
        if not self.is_fixed:
            fixed_a, fixed_b = rooted(a.detach(), b.detach())
            a, b = a + (fixed_a - a).detach(), b + (fixed_b - b).detach()
        u, v = r @ a + i @ b, r @ b - i @ a
        return torch.relu(self.norms[0](u)), torch.relu(self.norms[1](v))


class Signs(nn.Module):
    """Numbers [N, K] to [N, M] with weights of −s and s."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """relu(norm(x W))."""
        held = self.weight.detach()
        fixed = torch.sign(held) * held.abs().mean()
        return torch.relu(self.norm(x @ (self.weight + (fixed - self.weight).detach())))


class ComplexDigits(nn.Module):
    """image [N, 1, 8, 8] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Roots(32, WIDTH), Roots(WIDTH, WIDTH)])
        self.head = nn.Linear(2 * WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The model; shapes as above."""
        x = image.flatten(1)
        r, i = x[:, :32], x[:, 32:]
        for layer in self.layers:
            r, i = layer(r, i)
        return self.head(torch.cat([r, i], 1))


class SignDigits(nn.Module):
    """The same from real weights of one bit, as many bits: 64 · 128 and 128 · 256."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Signs(64, WIDTH), Signs(WIDTH, 2 * WIDTH)])
        self.head = nn.Linear(2 * WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The model; shapes as above."""
        x = image.flatten(1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains models/iroots_digits.onnx.")
    parser.add_argument("--signs", action="store_true", help="the network of real weights")
    parser.add_argument("--output", type=Path, default=iroots_digits.path())
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = train(SignDigits if args.signs else ComplexDigits)
    for layer in model.layers if not args.signs else []:
        layer.fix()
    export(model, args.output)


if __name__ == "__main__":
    main()
