# SPDX-License-Identifier: Apache-2.0
"""The zoo: architectures as torch exports them, with random weights, in two sizes each.

`ZOO[name].build()` is the full size, `build(tiny=True)` the same ops with less width, depth and
resolution. Nothing is trained: the zoo shows what compiles, never how accurate it is.
"""

from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from models.zoo import (
    bert,
    convnext,
    deit,
    efficientnet,
    gpt2,
    keyword,
    llama,
    mobilenetv2,
    mobilenetv3,
    resnet50,
    swin,
    tagger,
    unet,
    whisper,
)


class Builder(Protocol):
    """A builder of one architecture."""

    def __call__(self, *, tiny: bool = False) -> ir.Model:
        """The model, in full or tiny size."""


@dataclass(frozen=True)
class Entry:
    """An architecture; kind is "cnn", "transformer" or "recurrent"."""

    name: str
    kind: str
    build: Builder


ZOO = {
    entry.name: entry
    for entry in (
        Entry("resnet50", "cnn", resnet50.build),
        Entry("mobilenetv2", "cnn", mobilenetv2.build),
        Entry("mobilenetv3", "cnn", mobilenetv3.build),
        Entry("efficientnet", "cnn", efficientnet.build),
        Entry("convnext", "cnn", convnext.build),
        Entry("unet", "cnn", unet.build),
        Entry("deit", "transformer", deit.build),
        Entry("swin", "transformer", swin.build),
        Entry("bert", "transformer", bert.build),
        Entry("gpt2", "transformer", gpt2.build),
        Entry("llama", "transformer", llama.build),
        Entry("whisper", "transformer", whisper.build),
        Entry("tagger", "recurrent", tagger.build),
        Entry("keyword", "recurrent", keyword.build),
    )
}
