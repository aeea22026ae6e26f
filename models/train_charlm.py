# SPDX-License-Identifier: Apache-2.0
"""Trains the charlm model and writes models/charlm.onnx. Needs torch and onnx.

    python -m models.train_charlm
    python -m models.train_charlm --write-text  # only stdlib_slice.txt, from this Python

The seed is fixed, but another CPU or another torch rounds differently: the file then has other
weights.
"""

from __future__ import annotations

import argparse
import copy
import math
import sysconfig
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from models import charlm
from models.files import FOLDER, open_session, sha256

SOURCES = (
    "bisect.py",
    "contextlib.py",
    "copy.py",
    "fnmatch.py",
    "functools.py",
    "queue.py",
    "reprlib.py",
    "sched.py",
)
TEXT_BYTES = 100_000
WIDTH, HEADS, LAYERS = 128, 4, 2
DROPOUT = 0.2
STEPS, BATCH, WARMUP = 1600, 24, 100
LEARNING_RATE = 3e-3
CHECK_EVERY, PATIENCE = 100, 4
SEED = 0


class Block(nn.Module):
    """A pre-norm transformer block; x [B, T, WIDTH] and mask [1, 1, T, T] to [B, T, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def attention(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Causal self-attention of x [B, T, WIDTH]."""
        batch, length, _ = x.shape
        q, k, v = (  # each [B, HEADS, T, WIDTH / HEADS]
            part.reshape(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(x).split(WIDTH, dim=2)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS) + mask
        mixed = self.dropout(scores.softmax(dim=-1)) @ v
        return self.projection(mixed.transpose(1, 2).reshape(batch, length, WIDTH))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The block; shapes as above."""
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        hidden = nn.functional.gelu(self.up(self.norm2(x)))
        return x + self.dropout(self.down(hidden))


class CharLM(nn.Module):
    """tokens [B, T] to logits [B, T, V]; the output head is the embedding transposed."""

    mask: torch.Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, WIDTH)
        self.position = nn.Parameter(torch.randn(charlm.CONTEXT, WIDTH) * 0.02)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.05)
        future = torch.ones(1, 1, charlm.CONTEXT, charlm.CONTEXT).triu(1)
        self.register_buffer("mask", future * -10000.0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The model; shapes as above."""
        length = tokens.shape[1]
        mask = self.mask[:, :, :length, :length]
        x = self.dropout(self.embedding(tokens) + self.position[:length])
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) @ self.embedding.weight.t()


def write_text() -> None:
    """Writes stdlib_slice.txt: the SOURCES of the running Python joined, cut to TEXT_BYTES."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    joined = b"".join((folder / name).read_bytes() for name in SOURCES)
    target = FOLDER / "stdlib_slice.txt"
    target.write_bytes(joined[:TEXT_BYTES])
    print(f"{target}: {target.stat().st_size} bytes, sha256 {sha256(target)}")


def torch_loss(model: CharLM, split: str) -> float:
    """Mean nats per character of the model over the windows of a split."""
    tokens = charlm.data(split)
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).numpy()
    model.train()
    return charlm.mean_loss(logits, tokens)


def train() -> CharLM:
    """The model with the lowest validation loss, in evaluation mode."""
    torch.manual_seed(SEED)
    begin, end = charlm.RANGES["train"]
    tokens = torch.from_numpy(charlm.encode(charlm.text()[begin:end]))
    model = CharLM(len(charlm.vocabulary()))
    best, best_loss, waited = copy.deepcopy(model), math.inf, 0
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    started = time.monotonic()
    for step in range(1, STEPS + 1):
        rate = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(step / WARMUP, rate)
        starts = torch.randint(0, len(tokens) - charlm.CONTEXT, (BATCH, 1))
        window = tokens[starts + torch.arange(charlm.CONTEXT + 1)]  # [BATCH, CONTEXT + 1]
        logits = model(window[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY:
            continue
        validation = torch_loss(model, "validation")
        seconds = time.monotonic() - started
        print(
            f"step {step}: training {loss.item():.3f}, validation {validation:.3f},"
            f" {seconds:.0f} s",
            flush=True,
        )
        waited += 1
        if validation < best_loss:
            best, best_loss, waited = copy.deepcopy(model), validation, 0
        if waited == PATIENCE:
            break
    return best.eval()


def export(model: CharLM) -> None:
    """Writes charlm.onnx (opset 17, IR 8) and checks that onnxruntime computes what torch does."""
    target = charlm.path()
    axes = {0: "B", 1: "T"}
    torch.onnx.export(
        model,
        (torch.zeros(2, 16, dtype=torch.int64),),
        target,
        dynamo=False,
        opset_version=17,
        input_names=["tokens"],
        output_names=["logits"],
        dynamic_axes={"tokens": axes, "logits": axes},
    )
    graph = onnx.load(target)
    graph.ir_version = 8
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, target)

    tokens = charlm.data("test")
    session = open_session(target)
    for batch, length in ((1, 1), (3, 17), (len(tokens), charlm.CONTEXT)):
        part = np.ascontiguousarray(tokens[:batch, :length])
        with torch.no_grad():
            expected = model(torch.from_numpy(part)).numpy()
        (logits,) = session.run(["logits"], {"tokens": part})
        np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=1e-4)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{target}: {parameters} parameters, {target.stat().st_size} bytes, sha256 {sha256(target)}"
    )
    print(f"held-out loss {charlm.loss(session):.4f} nats per character")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains models/charlm.onnx.")
    parser.add_argument(
        "--write-text", action="store_true", help="only write stdlib_slice.txt again"
    )
    if parser.parse_args().write_text:
        write_text()
        return
    torch.set_num_threads(1)
    export(train())


if __name__ == "__main__":
    main()
