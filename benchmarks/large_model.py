# SPDX-License-Identifier: Apache-2.0
"""A Llama-like model of any size with made-up weights, written piece by piece to external data.

Grouped-query attention with a causal mask, RMSNorm, SwiGLU, an embedding and a head of its own.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

OPSET, PAGE = 18, 4096


@dataclass(frozen=True)
class Size:
    """The defaults are those of TinyLlama with 14 layers: 3.0 GB in float32."""

    layers: int = 14
    hidden: int = 2048
    inner: int = 5632
    heads: int = 32
    groups: int = 4
    vocabulary: int = 32000

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Name → shape as an exporter stores it, matrices [K, N]."""
        h, kv = self.hidden, self.hidden // self.heads * self.groups
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocabulary, h)}
        for i in range(self.layers):
            shapes |= {f"l{i}_q": (h, h), f"l{i}_k": (h, kv), f"l{i}_v": (h, kv)}
            shapes |= {f"l{i}_o": (h, h), f"l{i}_gate": (h, self.inner)}
            shapes |= {f"l{i}_up": (h, self.inner), f"l{i}_down": (self.inner, h)}
            shapes |= {f"l{i}_norm1": (h,), f"l{i}_norm2": (h,)}
        return shapes | {"norm": (h,), "head": (h, self.vocabulary)}

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(4 * int(np.prod(shape)) for shape in self.weights.values())


MEDIUM = Size(layers=4, hidden=1536, inner=4096, heads=24, groups=4, vocabulary=16000)  # 0.6 GB
LONG = Size(layers=26, hidden=1024, inner=2816, heads=16, groups=4, vocabulary=8000)  # 1.2 GB
SMALL = Size(layers=2, hidden=128, inner=320, heads=4, groups=2, vocabulary=500)


def write_model(path: Path, size: Size, seed: int = 0) -> Path:
    """Write path and path.data; of the weights 64 MiB are in memory."""
    pool = np.random.default_rng(seed).standard_normal(1 << 24, np.float32)
    data, initializers, at = path.with_name(f"{path.name}.data"), list(_constants(size)), 0
    with data.open("wb") as file:
        for number, (name, shape) in enumerate(size.weights.items()):
            file.seek(-(-file.tell() // PAGE) * PAGE)
            at = file.tell()
            _write(file, pool, shape, 7919 * number)
            initializers.append(_external(name, shape, data.name, at))
    graph = parser.parse_graph(_text(size))
    graph.initializer.extend(initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def _write(file, pool: np.ndarray, shape: tuple[int, ...], start: int) -> None:
    """Normal values of deviation 1/√K; those of a norm lie near 1."""
    left, at = int(np.prod(shape)), start
    while left:
        part = pool[at % len(pool) :][: min(left, 1 << 20)]
        vector = len(shape) == 1
        scaled = 1 + part * np.float32(0.1) if vector else part * np.float32(shape[0] ** -0.5)
        file.write(scaled.tobytes())
        left, at = left - len(part), at + len(part) + 1


def _external(name: str, shape: tuple[int, ...], location: str, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    places = {"location": location, "offset": offset, "length": 4 * int(np.prod(shape))}
    for key, value in places.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _constants(size: Size):
    """The small tensors that the graph's text names."""
    per_head, groups = size.hidden // size.heads, size.groups
    values = {
        "last": np.array([-1]),
        "one": np.array([1]),
        "two": np.array([2]),
        "to_q": np.array([0, 0, groups, size.heads // groups, per_head]),
        "to_kv": np.array([0, 0, groups, 1, per_head]),
        "to_rows": np.array([0, 0, size.hidden]),
        "epsilon": np.float32(1e-5),
        "factor": np.float32(per_head**-0.5),
        "minus": np.float32(-1e9),
    }
    return (numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())


def _text(size: Size) -> str:
    lines = [
        "x0 = Gather (embedding, ids)  shape = Shape (ids)  length = Slice (shape, one, two)",
        "square = Concat <axis = 0> (length, length)  full = Expand (minus, square)",
        "one_k = Squeeze (one)  mask = Trilu <upper = 1> (full, one_k)",
    ]
    for i in range(size.layers):
        lines += [_norm(f"x{i}", f"l{i}_norm1", f"n{i}"), _attention(i)]
        lines += [_norm(f"a{i}", f"l{i}_norm2", f"m{i}"), _feed_forward(i)]
    lines += [_norm(f"x{size.layers}", "norm", "final"), "logits = MatMul (final, head)"]
    body = "\n".join(lines)
    return f"llama (int64[B,S] ids) => (float[B,S,{size.vocabulary}] logits) {{ {body} }}"


def _norm(x: str, weight: str, y: str) -> str:
    return f"""
    {y}_2 = Mul ({x}, {x})  {y}_mean = ReduceMean ({y}_2, last)  {y}_e = Add ({y}_mean, epsilon)
    {y}_root = Sqrt ({y}_e)  {y}_unit = Div ({x}, {y}_root)  {y} = Mul ({y}_unit, {weight})"""


def _attention(i: int) -> str:
    """The heads of a group broadcast against the group's key and value."""
    return f"""
    q{i} = MatMul (n{i}, l{i}_q)  k{i} = MatMul (n{i}, l{i}_k)  v{i} = MatMul (n{i}, l{i}_v)
    qr{i} = Reshape (q{i}, to_q)  qt{i} = Transpose <perm = [0, 2, 3, 1, 4]> (qr{i})
    kr{i} = Reshape (k{i}, to_kv)  kt{i} = Transpose <perm = [0, 2, 3, 4, 1]> (kr{i})
    vr{i} = Reshape (v{i}, to_kv)  vt{i} = Transpose <perm = [0, 2, 3, 1, 4]> (vr{i})
    s{i} = MatMul (qt{i}, kt{i})  sf{i} = Mul (s{i}, factor)  sm{i} = Add (sf{i}, mask)
    p{i} = Softmax <axis = -1> (sm{i})  c{i} = MatMul (p{i}, vt{i})
    ct{i} = Transpose <perm = [0, 3, 1, 2, 4]> (c{i})  cr{i} = Reshape (ct{i}, to_rows)
    o{i} = MatMul (cr{i}, l{i}_o)  a{i} = Add (x{i}, o{i})"""


def _feed_forward(i: int) -> str:
    return f"""
    g{i} = MatMul (m{i}, l{i}_gate)  u{i} = MatMul (m{i}, l{i}_up)  gs{i} = Sigmoid (g{i})
    silu{i} = Mul (g{i}, gs{i})  h{i} = Mul (silu{i}, u{i})
    d{i} = MatMul (h{i}, l{i}_down)  x{i + 1} = Add (a{i}, d{i})"""
