# SPDX-License-Identifier: Apache-2.0
"""ResNets as integer-only graphs of random codes: the layers and sizes of the float networks.

He et al. 2016, table 1. First and last layer have 8 bits, every map and weight between them `bits`;
the residual is added in the kernel of the last convolution of its block.
"""

import numpy as np
from numpy.random import Generator

from qcompile.integer_graph import (
    CodeMap,
    Conv,
    GlobalAveragePool,
    IntegerGraph,
    MaxPool,
    Node,
)
from qcompile.numerics.conv import Window
from tests.targets.tvm.nets import conv, scale, window

Kinds = dict[str, int]  # bits of a convolution's output and of its weights
DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}

# Milliseconds on a T4 at batch 8 of the convolutions of ResNet-18 but the first, at 8 and 4 bits:
# HAWQ-V3 (Yao et al. 2021), the integer linear program of its public repository. A block's
# projection stands behind its two convolutions there.
_ORDER = (
    "s0b0a s0b0o s0b1a s0b1o",
    *(f"s{s}b0a s{s}b0o s{s}b0p s{s}b1a s{s}b1o" for s in (1, 2, 3)),
)
_MS = {
    8: """.36189111 .36211718 .31141909 .30454471 .19184896 .38948934 .0334169 .38904905 .3892859
    .19134735 .34307431 .02802354 .34313329 .34310756 .21117103 .37376585 .02896843 .37398187
    .37405185""",
    4: """.21094404 .21092674 .21104113 .21086851 .13642465 .19167506 .02532183 .19148203 .19142914
    .11395316 .20556011 .01917474 .20566918 .20566509 .13185102 .22287786 .01790088 .22304611
    .22286099""",
}
PUBLISHED_MS = {
    bits: dict(zip(" ".join(_ORDER).split(), map(float, text.split()), strict=True))
    for bits, text in _MS.items()
}
# Of the whole networks, (depth, bits) → milliseconds at batch 8: the table of that repository.
PUBLISHED_NETWORK_MS = {(18, 8): 3.3, (18, 4): 2.2, (50, 8): 8.5, (50, 4): 5.8}


def resnet(
    depth: int,
    batch: int,
    bits: int = 8,
    image: int = 224,
    stem: int = 64,
    weight_bits: int | None = None,
) -> IntegerGraph:
    """ResNet-18 or ResNet-50 with random weights; weight_bits: as `bits` where it is not given."""
    rng = np.random.default_rng(depth)
    kinds = {"bits": bits, "weight_bits": weight_bits or bits}
    x = CodeMap("image", (image, image, 3), 8, False, 128)
    first = conv(rng, x, "stem", stem, window(7, 2), bits=bits)
    size = Window((3, 3), (2, 2), (1, 1, 1, 1)).output_size(*first.y.shape[:2])
    y = CodeMap("pooled", (*size, stem), bits)
    nodes: list[Node] = [first, MaxPool(first.y, y, window(3, 2))]
    block = _basic if depth == 18 else _bottleneck
    for stage, count in enumerate(DEPTHS[depth]):
        for number in range(count):
            stride = 2 if stage and not number else 1
            nodes += block(rng, y, f"s{stage}b{number}", stem << stage, stride, kinds)
            y = nodes[-1].y
    mean = CodeMap("mean", (1, 1, y.shape[2]), 8)
    area = y.shape[0] * y.shape[1]
    wider = 1 << (8 - bits)
    nodes.append(GlobalAveragePool(y, mean, scale(rng, 1, wider / area, 1.5 * wider / area)))
    nodes.append(conv(rng, mean, "logits", 1000, window(1), bits=32))
    return IntegerGraph(x, tuple(nodes), batch)


def _basic(
    rng: Generator, x: CodeMap, name: str, width: int, stride: int, kinds: Kinds
) -> list[Conv]:
    """3×3, 3×3, and the input or its projection added."""
    first = conv(rng, x, f"{name}a", width, window(3, stride), **kinds)
    return _closed(rng, x, [first], name, width, (window(3), stride), kinds)


def _bottleneck(
    rng: Generator, x: CodeMap, name: str, width: int, stride: int, kinds: Kinds
) -> list[Conv]:
    """1×1, 3×3, 1×1 to 4 · width, and the input or its projection added."""
    first = conv(rng, x, f"{name}a", width, window(1), **kinds)
    second = conv(rng, first.y, f"{name}b", width, window(3, stride), **kinds)
    return _closed(rng, x, [first, second], name, 4 * width, (window(1), stride), kinds)


def _closed(
    rng: Generator,
    x: CodeMap,
    before: list[Conv],
    name: str,
    width: int,
    last: tuple[Window, int],
    kinds: Kinds,
) -> list[Conv]:
    """The last convolution of a block, which adds the input or its projection."""
    where, stride = last
    side, nodes = x, list(before)
    if stride > 1 or x.shape[2] != width:
        nodes.append(conv(rng, x, f"{name}p", width, window(1, stride), **kinds))
        side = nodes[-1].y
    source = before[-1].y
    nodes.append(conv(rng, source, f"{name}o", width, where, **kinds, residual=side))
    return nodes
