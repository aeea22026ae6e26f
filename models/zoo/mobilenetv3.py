# SPDX-License-Identifier: Apache-2.0
"""MobileNetV3-Small: squeeze and excite, HardSwish; `image` [batch, 3, S, S] → `logits`."""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import GATED_GAIN, Net

# kernel, wide channels, output channels, squeezed channels (0: none), HardSwish or ReLU, stride
Block = tuple[int, int, int, int, bool, int]


@dataclass(frozen=True)
class Size:
    """Side of the image, stem, blocks, channels of the last conv, width of the head, classes."""

    image: int
    stem: int
    blocks: tuple[Block, ...]
    last: int
    head: int
    classes: int


FULL = Size(
    224,
    16,
    (
        (3, 16, 16, 8, False, 2),
        (3, 72, 24, 0, False, 2),
        (3, 88, 24, 0, False, 1),
        (5, 96, 40, 24, True, 2),
        (5, 240, 40, 64, True, 1),
        (5, 240, 40, 64, True, 1),
        (5, 120, 48, 32, True, 1),
        (5, 144, 48, 40, True, 1),
        (5, 288, 96, 72, True, 2),
        (5, 576, 96, 144, True, 1),
        (5, 576, 96, 144, True, 1),
    ),
    576,
    1024,
    1000,
)
TINY = Size(
    32,
    16,
    (
        (3, 16, 16, 8, False, 1),
        (3, 72, 24, 0, False, 2),
        (5, 96, 32, 24, True, 2),
        (5, 128, 32, 32, True, 1),
    ),
    96,
    128,
    16,
)


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("image", "batch", 3, size.image, size.image)
    x = net.hard_swish(net.conv(x, 3, size.stem, 3, stride=2))
    channels = size.stem
    for block in size.blocks:
        x = inverted_residual(net, x, channels, block)
        channels = block[2]
    x = net.hard_swish(net.conv(x, channels, size.last, 1))
    x = net.reshape(net.mean(x, -1, -2), -1, size.last)
    x = net.hard_swish(net.gemm(x, size.last, size.head, gain=2.0))
    return net.model(logits=net.gemm(x, size.head, size.classes))


def inverted_residual(net: Net, x: ir.Value, ins: int, block: Block) -> ir.Value:
    """1×1 up, depthwise, the gate, 1×1 down, and the input added where it fits."""
    kernel, wide, outs, squeezed, is_swish, stride = block
    act, y = net.hard_swish if is_swish else net.relu, x
    if wide != ins:
        y = act(net.conv(y, ins, wide, 1))
    y = act(net.conv(y, wide, wide, kernel, stride=stride, group=wide))
    if squeezed:
        gate = net.relu(net.conv(net.mean(y, -1, -2), wide, squeezed, 1))
        gate = net.conv(gate, squeezed, wide, 1, gain=1.0)
        y = net.op("Mul", net.op("HardSigmoid", gate, alpha=1 / 6, beta=0.5), y)
    y = net.conv(y, wide, outs, 1, gain=GATED_GAIN if squeezed else 1.0)
    return net.op("Add", y, x) if stride == 1 and ins == outs else y
