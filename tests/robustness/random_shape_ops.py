# SPDX-License-Identifier: Apache-2.0
"""More ops of random graphs: those that move data, pools, Resize and normalisations."""

import numpy as np

from tests.robustness.random_graphs import RandomNet
from tests.robustness.random_ops import fitted, is_map, small, window_of


def concat(net: RandomNet) -> None:
    """Two or three values along any axis but the batch; the same value twice at times."""
    draw = net.draw
    x = net.pick(lambda s: len(s) >= 2 and small(s))
    if x is None:
        return
    shape = net.shapes[x]
    axis = draw.randrange(1, len(shape))

    def fits(s: tuple[int, ...]) -> bool:
        return len(s) == len(shape) and all(
            a == b for i, (a, b) in enumerate(zip(s, shape, strict=True)) if i != axis
        )

    others = [net.pick(fits) or x for _ in range(draw.choice((1, 1, 2)))]
    net.op("Concat", x, *others, axis=draw.choice((axis, axis - len(shape))))


def split(net: RandomNet) -> None:
    x = net.pick(lambda s: len(s) >= 2 and small(s) and max(s[1:]) >= 2)
    if x is None:
        return
    shape = net.shapes[x]
    axis = net.draw.choice([i for i in range(1, len(shape)) if shape[i] >= 2])
    first = net.draw.randrange(1, shape[axis])
    sizes = net.constant([first, shape[axis] - first], np.int64)
    net.op("Split", x, sizes, num_outputs=2, axis=axis)


def slice_(net: RandomNet) -> None:
    """A stretch of one axis, backwards or in steps at times."""
    draw = net.draw
    x = net.pick(lambda s: len(s) >= 2 and small(s) and max(s[1:]) >= 2)
    if x is None:
        return
    shape = net.shapes[x]
    axis = draw.choice([i for i in range(1, len(shape)) if shape[i] >= 2])
    start = draw.randrange(shape[axis])
    end, step = draw.randrange(start + 1, shape[axis] + 1), draw.choice((1, 1, 2))
    if draw.random() < 0.15:
        start, end, step = shape[axis] - 1, -shape[axis] - 1, -1
    values = ([start], [end], [axis], [step])
    net.op("Slice", x, *(net.constant(v, np.int64) for v in values))


def pad(net: RandomNet) -> None:
    draw = net.draw
    x = net.pick(lambda s: len(s) >= 2 and small(s))
    if x is None:
        return
    rank = len(net.shapes[x])
    sizes = [0, *(draw.choice((0, 1, 2)) for _ in range(rank - 1))]
    after = [0, *(draw.choice((0, 1)) for _ in range(rank - 1))]
    inputs = [x, net.constant(sizes + after, np.int64)]
    mode = draw.choice(("constant", "constant", "constant", "reflect", "edge"))
    if mode == "reflect" and min(net.shapes[x][1:]) < 3:
        mode = "edge"
    if mode == "constant" and draw.random() < 0.4:
        inputs.append(net.constant(draw.choice((0.0, 0.0, 0.5, -1.0))))
    net.op("Pad", *inputs, mode=mode)


def transpose(net: RandomNet) -> None:
    x = net.pick(lambda s: len(s) >= 3 and small(s))
    if x is None:
        return
    axes = list(range(1, len(net.shapes[x])))
    net.draw.shuffle(axes)
    net.op("Transpose", x, perm=[0, *axes])


def reshape(net: RandomNet) -> None:
    """The elements of a sample in another shape; Flatten at times."""
    draw = net.draw
    x = net.pick(lambda s: len(s) >= 2 and small(s))
    if x is None:
        return
    if draw.random() < 0.3:
        net.op("Flatten", x, axis=1)
        return
    left = int(np.prod(net.shapes[x][1:]))
    dims = []
    for _ in range(draw.randrange(0, 3)):
        factor = draw.choice([d for d in (1, 2, 3, 4, 8) if left % d == 0])
        dims.append(factor)
        left //= factor
    dims.append(left)
    draw.shuffle(dims)
    batch = draw.choice((0, -1))
    net.op("Reshape", x, net.constant([batch, *dims], np.int64))


def unsqueeze(net: RandomNet) -> None:
    x = net.pick(lambda s: len(s) <= 3 and small(s))
    if x is None:
        return
    axis = net.draw.randrange(1, len(net.shapes[x]) + 1)
    net.op("Unsqueeze", x, net.constant([axis], np.int64))


def squeeze(net: RandomNet) -> None:
    x = net.pick(lambda s: len(s) >= 3 and 1 in s[1:] and small(s))
    if x is None:
        return
    axis = net.shapes[x].index(1, 1)
    net.op("Squeeze", x, net.constant([axis], np.int64))


def gather(net: RandomNet) -> None:
    """Some places of one axis; a single one drops the axis."""
    x = net.pick(lambda s: len(s) >= 3 and small(s))
    if x is None:
        return
    axis = net.draw.randrange(1, len(net.shapes[x]))
    n = net.shapes[x][axis]
    places = [net.draw.randrange(-n, n) for _ in range(net.draw.choice((1, 2, 3)))]
    indices = places[0] if net.draw.random() < 0.4 else places
    net.op("Gather", x, net.constant(indices, np.int64), axis=axis)


def pool(net: RandomNet) -> None:
    """MaxPool, AveragePool with all their attributes, global pools."""
    draw = net.draw
    x = net.pick(lambda s: len(s) in (3, 4, 4, 4) and small(s))
    if x is None:
        return
    way = draw.random()
    if way < 0.3:
        axes = list(range(2, len(net.shapes[x])))
        if draw.random() < 0.4 and net.opset >= 18:
            net.op("ReduceMean", x, net.constant(axes, np.int64), keepdims=draw.randrange(2))
        else:
            net.op(draw.choice(("GlobalAveragePool", "GlobalMaxPool", "GlobalAveragePool")), x)
        return
    window = window_of(net, net.shapes[x][2:])
    is_ceil = draw.random() < 0.3
    if is_ceil:
        pairs = zip(window["strides"], window["kernel_shape"], strict=True)
        window["strides"] = [min(stride, size) for stride, size in pairs]
        before = window["pads"][: len(window["kernel_shape"])]
        window["pads"] = before + [0] * len(before)  # else ONNX and ORT differ about the size
        window = fitted(window, net.shapes[x][2:], is_ceil=True)
    if way < 0.65:
        net.op("MaxPool", x, ceil_mode=int(is_ceil), **window)
        return
    window.pop("dilations")
    kernel, sizes = window["kernel_shape"], net.shapes[x][2:]
    if any(k > s for k, s in zip(kernel, sizes, strict=True)):
        window.pop("pads")
        window["kernel_shape"] = [min(k, s) for k, s in zip(kernel, sizes, strict=True)]
    include = draw.randrange(2)
    net.op("AveragePool", x, ceil_mode=int(is_ceil), count_include_pad=include, **window)


def resize(net: RandomNet) -> None:
    draw = net.draw
    x = net.pick(lambda s: is_map(s) and max(s[2:]) <= 10)
    if x is None:
        return
    attributes = draw.choice(
        (
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
            {"mode": "nearest", "nearest_mode": "floor"},
            {"mode": "nearest"},
            {"mode": "linear"},
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        )
    )
    scales = [1.0, 1.0, draw.choice((2.0, 2.0, 1.5, 0.5)), draw.choice((2.0, 2.0, 1.0, 3.0))]
    if int(net.shapes[x][2] * scales[2]) < 1:
        scales[2] = 2.0
    net.op("Resize", x, "", net.constant(scales), **attributes)


def softmax(net: RandomNet) -> None:
    x = net.pick(lambda s: len(s) >= 2 and small(s))
    if x is not None:
        net.op("Softmax", x, axis=net.draw.choice((-1, 1)))


def layer_norm(net: RandomNet) -> None:
    x = net.pick(lambda s: len(s) >= 2 and small(s) and s[-1] > 3)
    if x is None or net.opset < 17:
        return
    n = net.shapes[x][-1]
    net.op("LayerNormalization", x, net.normal(n), net.normal(n), axis=-1)


def batch_norm(net: RandomNet) -> None:
    x = net.pick(lambda s: len(s) in (2, 3, 4) and small(s))
    if x is None:
        return
    n = net.shapes[x][1]
    variance = net.constant(net.rng.uniform(0.3, 2, n))
    net.op("BatchNormalization", x, net.normal(n), net.normal(n), net.normal(n), variance)
