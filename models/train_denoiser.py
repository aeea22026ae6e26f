# SPDX-License-Identifier: Apache-2.0
"""Trains the denoiser model and writes models/denoiser.onnx. Needs torch and onnx.

    python -m models.train_denoiser

The seed is fixed, but another CPU or another torch rounds differently: the file then has other
weights.
"""

import math

import numpy as np
import onnx
import torch
from torch import nn

from models import denoiser, digits
from models.files import open_session, sha256

CHANNELS, WIDTH = 16, 32
STEPS, BATCH, LEARNING_RATE = 6000, 64, 3e-3
SEED = 0


class Block(nn.Module):
    """x + conv(silu(conv(silu(conv(x) + time)))); [N, C, H, W] to the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.time = nn.Linear(WIDTH, CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv3 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The block; x as above, time [N, WIDTH]."""
        y = nn.functional.silu(self.conv1(x) + self.time(time)[:, :, None, None])
        return x + self.conv3(nn.functional.silu(self.conv2(y)))


class Denoiser(nn.Module):
    """x [N, 1, 8, 8] and t [N] to the noise [N, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(WIDTH // 2) * (-math.log(denoiser.STEPS) / (WIDTH // 2 - 1)))
        angles = torch.arange(denoiser.STEPS)[:, None] * rates
        self.register_buffer("waves", torch.cat([angles.sin(), angles.cos()], 1))
        self.time = nn.Linear(WIDTH, WIDTH)
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Conv2d(CHANNELS, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The model; shapes as above."""
        time = nn.functional.silu(self.time(self.waves[t]))
        y = self.stem(x)
        for block in self.blocks:
            y = block(y, time)
        return self.head(y)


def train() -> Denoiser:
    """The trained model, in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images = 2 * torch.from_numpy(digits.data("train")[0]) - 1
    shares = torch.from_numpy(denoiser.signal_shares()).float()
    model = Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    total = 0.0
    for step in range(STEPS):
        chosen = images[torch.randint(0, len(images), (BATCH,), generator=generator)]
        t = torch.randint(0, denoiser.STEPS, (BATCH,), generator=generator)
        noise = torch.randn(chosen.shape, generator=generator)
        share = shares[t][:, None, None, None]
        found = model(share.sqrt() * chosen + (1 - share).sqrt() * noise, t)
        loss = nn.functional.mse_loss(found, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 1000 == 999:
            print(f"step {step + 1}: training loss {total / 1000:.4f}", flush=True)
            total = 0.0
    return model.eval()


def export(model: Denoiser) -> None:
    """Writes denoiser.onnx (opset 17, IR 8) and checks that onnxruntime agrees with torch."""
    target = denoiser.path()
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)),
        target,
        dynamo=False,
        opset_version=17,
        input_names=["x", "t"],
        output_names=["noise"],
        dynamic_axes={"x": {0: "N"}, "t": {0: "N"}, "noise": {0: "N"}},
    )
    graph = onnx.load(target)
    graph.ir_version = 8
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, target)

    session = open_session(target)
    for feed in denoiser.data("test", 3)[::25]:
        with torch.no_grad():
            expected = model(torch.from_numpy(feed["x"]), torch.from_numpy(feed["t"])).numpy()
        (found,) = session.run(["noise"], {"x": feed["x"], "t": feed["t"]})
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{target}: {count} parameters, {target.stat().st_size} bytes, sha256 {sha256(target)}")
    print(f"test error {denoiser.errors(session).mean():.4f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    export(train())
