# SPDX-License-Identifier: Apache-2.0
"""Small decoders as ONNX text: what can be rotated in them, and what blocks it."""

import re

import numpy as np
import onnx_ir as ir

from qcompile.normalise import normalise
from tests.passes.stages import with_weights

WIDTH, HIDDEN, VOCABULARY = 32, 24, 40
HEADS, KV_HEADS, HEAD = 4, 2, 8


def rms(x: str, y: str, gamma: str) -> str:
    """RMSNorm as exporters write it."""
    return f"""{y}s = Mul ({x}, {x})  {y}m = ReduceMean <axes = [-1], keepdims = 1> ({y}s)
  {y}e = Add ({y}m, eps)  {y}r = Sqrt ({y}e)  {y}d = Div ({x}, {y}r)  {y} = Mul ({y}d, {gamma})"""


def layer_norm(x: str, y: str, gamma: str, beta: str) -> str:
    """The op."""
    return f"{y} = LayerNormalization <axis = -1, epsilon = 1e-5> ({x}, {gamma}, {beta})"


HEADER = f"""f (int64[b,t] ids, PARAMETERS) => (float[b,t,{VOCABULARY}] y)
<float eps = {{1e-5}}, int64[4] four = {{0, 0, {KV_HEADS}, {HEAD}}}, int64[4] own =
 {{0, 0, {HEADS}, {HEAD}}}, int64[1] two = {{2}}, int64[5] twice =
 {{1, 1, {HEADS // KV_HEADS}, 1, 1}}, int64[4] joined =
 {{0, {HEADS}, -1, {HEAD}}}, int64[3] flat = {{0, 0, {HEADS * HEAD}}}>
"""
# Grouped queries: two value heads serve four query heads.
ATTENTION = """q = MatMul (n, wq)  qr = Reshape (q, own)  qt = Transpose <perm = [0,2,1,3]> (qr)
  k = MatMul (n, wk)  kr = Reshape (k, four)  kt = Transpose <perm = [0,2,1,3]> (kr)
  ku = Unsqueeze (kt, two)  ke = Expand (ku, twice)  kj = Reshape (ke, joined)
  kk = Transpose <perm = [0,1,3,2]> (kj)  sc = MatMul (qt, kk)  p = Softmax <axis = -1> (sc)
  v = MatMul (n, wv)  vb = Add (v, bv)  vr = Reshape (vb, four)
  vt = Transpose <perm = [0,2,1,3]> (vr)  vu = Unsqueeze (vt, two)  ve = Expand (vu, twice)
  vj = Reshape (ve, joined)  o = MatMul (p, vj)  ot = Transpose <perm = [0,2,1,3]> (o)
  of = Reshape (ot, flat)  oo = MatMul (of, wo)"""
MLP = """g = MatMul (n2, wg)  gs = Sigmoid (g)  gg = Mul (g, gs)  up = MatMul (n2, wu)
  h = Mul (gg, up)  dn = MatMul (h, wd)"""
LLAMA = f"""{{ x = Gather (emb, ids)
  {rms("x", "n", "g1")}  {ATTENTION}  x1 = Add (x, oo)
  {rms("x1", "n2", "g2")}  {MLP}  x2 = Add (x1, dn)
  {rms("x2", "n3", "g3")}  y = MatMul (n3, head) }}"""
TIED = LLAMA.replace(
    "y = MatMul (n3, head)", "et = Transpose <perm = [1,0]> (emb) y = MatMul (n3, et)"
)
GPT = f"""{{ e = Gather (emb, ids)  x = Add (pos, e)
  {layer_norm("x", "n", "g1", "b1")}  u = MatMul (n, wq)  ub = Add (u, bq)  ur = Relu (ub)
  o = MatMul (ur, wo)  ob = Add (o, bo)  x1 = Add (x, ob)
  {layer_norm("x1", "n3", "g3", "b3")}  y = MatMul (n3, head) }}"""
SHAPES = {
    **{"emb": (VOCABULARY, WIDTH), "head": (WIDTH, VOCABULARY), "bv": (KV_HEADS * HEAD,)},
    **{"g1": (WIDTH,), "g2": (WIDTH,), "g3": (WIDTH,), "b1": (WIDTH,), "b3": (WIDTH,)},
    **{"wq": (WIDTH, HEADS * HEAD), "wk": (WIDTH, KV_HEADS * HEAD), "wv": (WIDTH, KV_HEADS * HEAD)},
    **{"wo": (HEADS * HEAD, WIDTH), "wg": (WIDTH, HIDDEN), "wu": (WIDTH, HIDDEN)},
    **{"wd": (HIDDEN, WIDTH), "bq": (WIDTH,), "bo": (WIDTH,), "pos": (1, 1, WIDTH)},
}


def decoder(text: str, seed: int = 0, **given: np.ndarray) -> ir.Model:
    """The normalised net; `given` takes the place of its random weights."""
    used = [name for name in SHAPES if re.search(rf"\b{name}\b", text)]
    header = HEADER.replace("PARAMETERS", ", ".join(f"float {name}" for name in used))
    net = with_weights(header + text, seed, **{name: SHAPES[name] for name in used})
    rng = np.random.default_rng([seed, 1])
    scales = {
        name: 1 + 0.3 * rng.uniform(-1, 1, WIDTH) for name in ("g1", "g2", "g3") if name in used
    }
    for name, array in (scales | given).items():
        value = net.graph.initializers[name]
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
    return normalise(net)


def outlier_channel(text: str, factor: float = 30.0) -> ir.Model:
    """One channel of the stream is much larger than the others."""
    wide = np.random.default_rng(1).standard_normal((VOCABULARY, WIDTH))
    wide[:, 3] *= factor
    return decoder(text, emb=wide)


def tokens(num: int = 4, length: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    return {"ids": rng.integers(0, VOCABULARY, (num, length), dtype=np.int64)}
