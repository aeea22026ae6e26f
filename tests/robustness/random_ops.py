# SPDX-License-Identifier: Apache-2.0
"""The ops of random graphs: each function adds one, or a pattern, or nothing where none fits."""

from collections.abc import Callable

from tests.robustness.random_graphs import RandomNet

Function = Callable[[RandomNet, str], str]
MOST_ELEMENTS = 4000  # of one sample: larger values are not read further


def small(shape: tuple[int, ...]) -> bool:
    total = 1
    for d in shape[1:]:
        total *= d
    return 0 < total <= MOST_ELEMENTS


def is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and small(shape)


def window_of(net: RandomNet, sizes: tuple[int, ...]) -> dict[str, list[int]]:
    """kernel_shape, strides, pads and dilations that fit the sizes."""
    draw = net.draw
    kernel = [draw.choice((1, 1, 2, 3, 3, 5)) for _ in sizes]
    dilations = [draw.choice((1, 1, 1, 2)) for _ in sizes]
    before = [draw.randrange(k) for k in kernel]
    after = [draw.choice((b, draw.randrange(k))) for b, k in zip(before, kernel, strict=True)]
    strides = [draw.choice((1, 1, 2)) for _ in sizes]
    window = {"kernel_shape": kernel, "strides": strides, "pads": before + after}
    return fitted(window | {"dilations": dilations}, sizes)


def fitted(
    window: dict[str, list[int]], sizes: tuple[int, ...], *, is_ceil: bool = False
) -> dict[str, list[int]]:
    """The window, of one place where it is larger than the map or could see padding alone.

    ONNX Runtime 1.32 ends the process over some that are larger, and gives −3.4e38 for padding.
    """
    found = {name: list(values) for name, values in window.items()}
    kernel, dilations, pads = found["kernel_shape"], found["dilations"], found["pads"]
    for i, size in enumerate(sizes):
        end = i + len(sizes)
        over = (kernel[i] - 1) * dilations[i] + 1 - size - pads[i] - pads[end]
        if over >= (window["strides"][i] if is_ceil else 1) or dilations[i] > size:
            kernel[i], dilations[i], pads[i], pads[end] = 1, 1, 0, 0
    return found


def conv(net: RandomNet) -> None:
    """1-D and 2-D, dense, grouped, depthwise; some share their weight with an earlier one."""
    draw = net.draw
    x = net.pick(lambda s: len(s) in (3, 4) and small(s) and s[1] <= 64)
    if x is None:
        return
    c, sizes = net.shapes[x][1], net.shapes[x][2:]
    window = window_of(net, sizes)
    group = draw.choice([1, 1, 1, c, *(g for g in (2, 3, 4) if c % g == 0)])
    n = group * draw.choice((1, 1, 2)) if group == c else group * draw.randrange(1, 9)
    dims = (n, c // group, *window["kernel_shape"])
    held = [k for k, v in net.weights.items() if v.shape == dims]
    weight = held[0] if held else net.weight(net.name("weight"), *dims)
    inputs = [x, weight] + ([net.normal(n)] if draw.random() < 0.7 else [])
    if draw.random() < 0.1:
        window.pop("pads")
        window["auto_pad"] = draw.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
        window["strides"], window["dilations"] = [1] * len(sizes), [1] * len(sizes)
        if window["auto_pad"] == "VALID" and any(
            k > s for k, s in zip(window["kernel_shape"], sizes, strict=True)
        ):
            window["auto_pad"] = "SAME_UPPER"
    (y,) = net.op("Conv", *inputs, group=group, **window)
    _decorate(net, y)


def _decorate(net: RandomNet, y: str) -> None:
    """What exporters put behind a convolution: BatchNorm, an activation."""
    draw = net.draw
    if draw.random() < 0.25:
        n = net.shapes[y][1]
        scale, bias, mean = net.normal(n), net.normal(n), net.normal(n)
        variance = net.constant(net.rng.uniform(0.3, 2, n))
        (y,) = net.op("BatchNormalization", y, scale, bias, mean, variance)
    if draw.random() < 0.4:
        unary(net, y)


def conv_transpose(net: RandomNet) -> None:
    draw = net.draw
    x = net.pick(lambda s: len(s) in (3, 4) and small(s) and s[1] <= 32 and max(s[2:]) < 12)
    if x is None:
        return
    c, sizes = net.shapes[x][1], net.shapes[x][2:]
    k, s = draw.choice(((2, 2), (3, 1), (3, 2), (4, 2), (1, 1), (3, 3)))
    pad = draw.randrange(0, (k + 1) // 2)
    group = draw.choice((1, 1, 1, c))
    n = draw.randrange(1, 9) if group == 1 else draw.choice((1, 2))
    weight = net.weight(net.name("weight"), c, n, *[k] * len(sizes))
    inputs = [x, weight] + ([net.normal(n * group)] if draw.random() < 0.7 else [])
    extra = draw.randrange(s) if draw.random() < 0.4 else 0
    if min(sizes) * s + k - s - 2 * pad < 1:
        pad = 0
    net.op(
        "ConvTranspose",
        *inputs,
        group=group,
        kernel_shape=[k] * len(sizes),
        strides=[s] * len(sizes),
        pads=[pad] * (2 * len(sizes)),
        output_padding=[extra] * len(sizes),
    )


def matmul(net: RandomNet) -> None:
    """MatMul with a weight, at times a transposed one, perhaps with an Add."""
    draw = net.draw
    x = net.pick(lambda s: len(s) >= 2 and small(s) and s[-1] <= 512)
    if x is None:
        return
    k = net.shapes[x][-1]
    held = [w for w, v in net.weights.items() if v.ndim == 2 and v.shape[0] == k]
    n = draw.choice((1, 3, 8, 16, 40))
    if held and draw.random() < 0.3:
        weight = held[0]
    elif draw.random() < 0.2:
        (weight,) = net.op("Transpose", net.weight(net.name("weight"), n, k), perm=[1, 0])
        net.shapes.pop(weight)
    else:
        weight = net.weight(net.name("weight"), k, n)
    (y,) = net.op("MatMul", x, weight) if weight in net.weights else _through(net, x, weight, n)
    n = net.shapes[y][-1]
    if draw.random() < 0.6:
        bias = net.normal(n)
        (y,) = net.op("Add", *([y, bias] if draw.random() < 0.7 else [bias, y]))
    if draw.random() < 0.4:
        unary(net, y)


def _through(net: RandomNet, x: str, weight: str, n: int) -> list[str]:
    """MatMul of a computed weight [K, n], whose shape is no value of the batch."""
    net.shapes[weight] = (net.shapes[x][-1], n)
    made = net.op("MatMul", x, weight)
    net.shapes.pop(weight)
    return made


def gemm(net: RandomNet) -> None:
    draw = net.draw
    x = net.pick(lambda s: len(s) == 2 and s[1] <= 1024)
    if x is None:
        return
    k, n = net.shapes[x][1], draw.choice((1, 4, 10, 32))
    turned = draw.randrange(2)
    weight = net.weight(net.name("weight"), *((n, k) if turned else (k, n)))
    inputs = [x, weight]
    if draw.random() < 0.8:
        inputs.append(net.normal(*draw.choice(((n,), (n,), (1, n), (1,), ()))))
    numbers = {"alpha": 0.5, "beta": 2.0} if draw.random() < 0.2 else {}
    net.op("Gemm", *inputs, transB=turned, **numbers)


def product_of_values(net: RandomNet) -> None:
    """MatMul of two computed values, as in attention."""
    x = net.pick(lambda s: len(s) == 3 and small(s))
    if x is None:
        return
    (turned,) = net.op("Transpose", x, perm=[0, 2, 1])
    net.op("MatMul", x, turned)


def embedding(net: RandomNet) -> None:
    """Gather of rows by tokens, which are an input of the graph."""
    length = net.draw.choice((2, 5))
    tokens = net.source((length,), 7)
    table = net.weight(net.name("table"), 11, net.draw.choice((8, 32, 40)))
    net.op("Gather", table, tokens, axis=0)


def arithmetic(net: RandomNet) -> None:
    """Add, Sub, Mul, Div, Max of two values that broadcast, or of a value and numbers."""
    draw = net.draw
    x = net.pick(small)
    if x is None:
        return
    shape, op = net.shapes[x], draw.choice(("Add", "Add", "Sub", "Mul", "Mul"))
    way = draw.random()
    if way < 0.55:

        def fits(s: tuple[int, ...]) -> bool:
            return len(s) == len(shape) and all(
                a == b or 1 in (a, b) for a, b in zip(s, shape, strict=True)
            )

        inputs = [x, net.pick(fits) or x]
    else:
        dims = draw.choice(((), (1,), shape[-1:], (*shape[1:2], *[1] * (len(shape) - 2))))
        op = draw.choice((op, "Div", "Max", "Min"))
        numbers = net.rng.standard_normal(dims)
        if op == "Div":
            numbers = numbers + (2.0 if draw.random() < 0.5 else -4.0) * (numbers > -9)
        inputs = [x, net.constant(numbers)]
        if draw.random() < 0.25 and op != "Div":
            inputs.reverse()
    net.op(op, *inputs)


def _simple(op: str, **attributes: float) -> Function:
    return lambda net, x: net.op(op, x, **attributes)[0]


def _gelu(net: RandomNet, x: str) -> str:
    (a,) = net.op("Div", x, net.constant(2.0**0.5))
    (a,) = net.op("Add", net.op("Erf", a)[0], net.constant(1.0))
    (a,) = net.op("Mul", net.op("Mul", x, a)[0], net.constant(0.5))
    return a


def _silu(net: RandomNet, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x)[0])[0]


def _hard_swish(net: RandomNet, x: str) -> str:
    (a,) = net.op("Add", x, net.constant(3.0))
    (a,) = net.op("Clip", a, net.constant(0.0), net.constant(6.0))
    return net.op("Div", net.op("Mul", x, a)[0], net.constant(6.0))[0]


def _clip(net: RandomNet, x: str) -> str:
    low = net.draw.choice((-1.0, 0.0, -0.2))
    ends = net.draw.choice(((low, 1.5), (low, None), (None, 0.7)))
    return net.op("Clip", x, *("" if e is None else net.constant(e) for e in ends))[0]


def _prelu(net: RandomNet, x: str) -> str:
    rank = len(net.shapes[x])
    n = net.shapes[x][1] if rank > 1 else 1
    dims = net.draw.choice(((1,), (n, *[1] * (rank - 2))))
    return net.op("PRelu", x, net.normal(*dims))[0]


UNARY = (
    *(_simple("Relu"), _simple("Relu"), _simple("LeakyRelu", alpha=0.2), _simple("Sigmoid")),
    *(_simple("Tanh"), _simple("HardSwish"), _simple("HardSigmoid"), _simple("Elu")),
    *(_simple("Softplus"), _simple("Neg"), _simple("Abs"), _simple("Erf"), _simple("Identity")),
    *(_gelu, _silu, _hard_swish, _clip, _clip, _prelu),
)


def unary(net: RandomNet, x: str | None = None) -> None:
    """One function of a value, or a chain of them."""
    x = x or net.pick(small)
    if x is None:
        return
    for _ in range(net.draw.choice((1, 1, 1, 2, 3))):
        chosen = net.draw.choice(UNARY)
        x = chosen(net, x)
