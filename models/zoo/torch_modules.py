# SPDX-License-Identifier: Apache-2.0
"""The counterparts of the zoo in torch: torchvision's and transformers' own modules, where they
have one, with random weights, and the inputs to export them with. Needs the extra `train`.
"""

from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
import transformers as hf
from torch import nn

from models.zoo import bert, gpt2, keyword, llama, tagger, unet, whisper

Example = tuple[nn.Module, tuple[torch.Tensor, ...]]
BATCH = 2  # torch.export takes a batch of 1 for a constant
PAST, LENGTH = 5, 3


def torchvision_models() -> ModuleType:
    """torchvision.models, also of a wheel whose C++ ops were built for another torch.

    Classification uses none of them, but the import declares what two of them return. To be called
    before the models of transformers are touched, which import torchvision too.
    """
    try:
        import torchvision.models as found
    except RuntimeError:
        for op in ("nms", "qnms"):
            signature = "(Tensor boxes, Tensor scores, float limit) -> Tensor"
            torch.library.define(f"torchvision::{op}", signature)
        import torchvision.models as found
    return found


def vision(name: str, *arguments: Any) -> Example:
    """A classifier of torchvision on images of 224×224."""
    return getattr(torchvision_models(), name)(*arguments), (torch.randn(BATCH, 3, 224, 224),)


class Output(nn.Module):
    """A module of transformers that gives one tensor of its output."""

    def __init__(self, module: nn.Module, field: str, **options: Any) -> None:
        super().__init__()
        self.module, self.field, self.options = module, field, options

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The field of the module's output."""
        return self.module(*inputs, **self.options)[self.field]


def bert_module() -> Example:
    """BertModel, base."""
    size = bert.FULL
    config = hf.BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
    )
    module = hf.BertModel(config, add_pooling_layer=False)
    ids = torch.zeros(BATCH, bert.LENGTH, dtype=torch.long)
    return Output(module, "last_hidden_state"), (ids, torch.ones_like(ids))


def gpt2_module() -> Example:
    """GPT2LMHeadModel, small."""
    size = gpt2.FULL
    config = hf.GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.positions,
        n_embd=size.width,
        n_layer=size.depth,
        n_head=size.heads,
    )
    ids = torch.zeros(BATCH, gpt2.LENGTH, dtype=torch.long)
    return Output(hf.GPT2LMHeadModel(config), "logits", use_cache=False), (ids,)


class Llama(nn.Module):
    """LlamaForCausalLM with its cache as plain inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        size = llama.FULL
        self.config = hf.LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            intermediate_size=size.wide,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
        )
        self.module = hf.LlamaForCausalLM(self.config)

    def forward(
        self, ids: torch.Tensor, places: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Logits, then keys and values of every layer."""
        cache = hf.DynamicCache(config=self.config)
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.module(input_ids=ids, position_ids=places, past_key_values=cache)
        layers = found.past_key_values.layers
        return (found.logits, *(part for each in layers for part in (each.keys, each.values)))


def llama_module() -> Example:
    """Llama with PAST positions in its cache."""
    size = llama.FULL
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    places = torch.arange(PAST, PAST + LENGTH).expand(BATCH, -1)
    shape = (BATCH, size.kv_heads, PAST, size.head)
    return Llama(), (ids, places, *(torch.randn(shape) for _ in range(2 * size.depth)))


def whisper_module() -> Example:
    """WhisperEncoder, tiny."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    size = whisper.FULL
    config = hf.WhisperConfig(
        num_mel_bins=size.bands,
        encoder_layers=size.depth,
        encoder_attention_heads=size.heads,
        encoder_ffn_dim=4 * size.width,
        d_model=size.width,
        max_source_positions=size.frames // 2,
    )
    module = Output(WhisperEncoder(config), "last_hidden_state")
    return module, (torch.randn(BATCH, size.bands, size.frames),)


class UNet(nn.Module):
    """torchvision has no U-Net: the usual one."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.first = self.double(3, channels[0])
        self.down = nn.ModuleList(self.double(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(self.double(2 * a, a) for a, _ in reversed(pairs))
        self.last = nn.Conv2d(channels[0], unet.CLASSES, 1)

    @staticmethod
    def double(ins: int, outs: int) -> nn.Sequential:
        """Two convolutions with BatchNorm and ReLU."""
        parts: list[nn.Module] = []
        for count in (ins, outs):
            conv = nn.Conv2d(count, outs, 3, padding=1, bias=False)
            parts += [conv, nn.BatchNorm2d(outs), nn.ReLU()]
        return nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mask's logits."""
        maps = [self.first(x)]
        for block in self.down:
            maps.append(block(nn.functional.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([maps.pop(), up(x)], dim=1))
        return self.last(x)


class Tagger(nn.Module):
    """Embedding, nn.LSTM, nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        size = tagger.FULL
        self.table = nn.Embedding(size.vocabulary, size.width)
        self.lstm = nn.LSTM(size.width, size.hidden, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * size.hidden, size.tags)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tags' logits."""
        return self.head(self.lstm(self.table(tokens))[0])


class KeywordSpotter(nn.Module):
    """nn.GRU of two layers, nn.Linear on its last step."""

    def __init__(self) -> None:
        super().__init__()
        size = keyword.FULL
        self.gru = nn.GRU(size.features, size.hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(size.hidden, size.words)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """The words' logits."""
        return self.head(self.gru(frames)[0][:, -1])


MODULES: dict[str, Callable[[], Example]] = {
    "resnet50": lambda: vision("resnet50"),
    "mobilenetv2": lambda: vision("mobilenet_v2"),
    "mobilenetv3": lambda: vision("mobilenet_v3_small"),
    "efficientnet": lambda: vision("efficientnet_b0"),
    "convnext": lambda: vision("convnext_tiny"),
    "unet": lambda: (
        UNet(unet.FULL.channels),
        (torch.randn(BATCH, 3, unet.FULL.image, unet.FULL.image),),
    ),
    "deit": lambda: vision("VisionTransformer", 224, 16, 12, 3, 192, 768),
    "swin": lambda: vision("swin_t"),
    "bert": bert_module,
    "gpt2": gpt2_module,
    "llama": llama_module,
    "whisper": whisper_module,
    "tagger": lambda: (Tagger(), (torch.zeros(BATCH, tagger.LENGTH, dtype=torch.long),)),
    "keyword": lambda: (
        KeywordSpotter(),
        (torch.randn(BATCH, keyword.LENGTH, keyword.FULL.features),),
    ),
}
