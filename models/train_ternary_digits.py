# SPDX-License-Identifier: Apache-2.0
"""Trains the ternary_digits model and writes models/ternary_digits.onnx. Needs torch and onnx.

    python -m models.train_ternary_digits
    python -m models.train_ternary_digits --scale absmean --output other.onnx

BitNet b1.58 Reloaded (Nielsen and Schneider-Kamp 2024, section 3): weights are s times
clip(round(w / s), −1, 1) with s the median (or mean) of |w|, and gradients pass as if they were w.
Of digits' layers the first convolution and the last product keep float weights; activations stay
floats, where the paper quantizes them to 8 bits.

The seed is fixed, but another CPU or another torch rounds differently: the file then has other
weights.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from models import ternary_digits
from models.train_digits import Digits, export, train

STATISTICS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "absmedian": torch.median,
    "absmean": torch.mean,
}


class Ternary(nn.Module):
    """A weight as −s, 0, s; the straight-through estimator."""

    def __init__(self, statistic: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.statistic = statistic

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        scale = self.statistic(weight.detach().abs()) + 1e-5
        codes = torch.clamp(torch.round(weight / scale), -1, 1)
        return weight + (codes * scale - weight).detach()


def convolutions(model: Digits) -> list[nn.Conv2d]:
    """Those that become ternary: all but the first."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m is not model.stem]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains models/ternary_digits.onnx.")
    parser.add_argument("--scale", choices=STATISTICS, default="absmedian")
    parser.add_argument("--output", type=Path, default=ternary_digits.path())
    args = parser.parse_args()
    torch.set_num_threads(1)

    def build() -> Digits:
        model = Digits()
        for layer in convolutions(model):
            made = Ternary(STATISTICS[args.scale])
            parametrize.register_parametrization(layer, "weight", made)
        return model

    model = train(build)
    for layer in convolutions(model):
        exact = torch.sign(layer.weight.detach()) * layer.weight.detach().abs().max()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        layer.weight.data = exact  # w + (s · code − w) is s · code, but for a rounding
    export(model, args.output)


if __name__ == "__main__":
    main()
