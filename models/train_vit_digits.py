# SPDX-License-Identifier: Apache-2.0
"""Trains the vit_digits model and writes models/vit_digits.onnx. Needs torch and onnx.

    python -m models.train_vit_digits

The seed is fixed, but another CPU or another torch rounds differently: the file then has other
weights. It is written by torch's exporter of today (torch.export), with a free batch.
"""

import argparse

import numpy as np
import onnx
import torch
from torch import nn

from models import digits, vit_digits
from models.files import open_session, sha256
from models.train_digits import shifted

WIDTH, HEADS, LAYERS, PATCH = 64, 4, 2, 2
TOKENS = (8 // PATCH) ** 2 + 1  # and the class token
EPOCHS, BATCH, LEARNING_RATE = 120, 64, 3e-3
SEED = 0


class Block(nn.Module):
    """A pre-norm transformer block; [N, TOKENS, WIDTH] to the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 3 * WIDTH)
        self.down = nn.Linear(3 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Self-attention over all tokens; shapes as above."""
        parts = self.qkv(x).reshape(-1, TOKENS, 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each [N, HEADS, TOKENS, WIDTH / HEADS]
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.projection(y.transpose(1, 2).reshape(-1, TOKENS, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block; shapes as above."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        y = nn.functional.gelu(self.up(self.norm2(x)))
        return x + self.dropout(self.down(y))


class VitDigits(nn.Module):
    """image [N, 1, 8, 8] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The model; shapes as above."""
        x = self.patches(image).flatten(2).transpose(1, 2)  # [N, TOKENS - 1, WIDTH]
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


def train() -> VitDigits:
    """The trained model, in evaluation mode; the last epoch is kept."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, labels = (torch.from_numpy(part) for part in digits.data("train"))
    model = VitDigits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
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


def export(model: VitDigits) -> None:
    """Writes vit_digits.onnx and checks that onnxruntime computes what torch does."""
    target = vit_digits.path()
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        opset_version=20,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
    )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces of this machine
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del value.metadata_props[:]
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, target)

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
    argparse.ArgumentParser(description="Trains models/vit_digits.onnx.").parse_args()
    torch.set_num_threads(1)
    export(train())


if __name__ == "__main__":
    main()
