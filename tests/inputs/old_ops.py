# SPDX-License-Identifier: Apache-2.0
"""A graph, in ONNX text, for every version of every op that changed between opset 7 and 17.

`CASES[op]` is one text for all versions, or one for each version from the given one on.
"""

from onnx import defs

OLDEST, CONVERTED, NEWEST = 7, 17, 12  # a model of opset 7 … 12 is converted to 17

UNARY = "(float[2,3] x) => (float[2,3] y) { y = OP (x) }"
BINARY = "(float[2,3] x, float[3] z) => (float[2,3] y) { y = OP (x, z) }"
COMPARE = "(float[2,3] x, float[3] z) => (bool[2,3] y) { y = OP (x, z) }"
VARIADIC = "(float[2,3] x, float[3] z, float[2,1] w) => (float[2,3] y) { y = OP (x, z, w) }"
SAME_SHAPES = "(float[2,3] x, float[2,3] z) => (float[2,3] y) { y = OP (x, z) }"
REDUCE = "(float[2,3,4] x) => (float[2,1,4] y) { y = OP <axes = [1]> (x) }"
REDUCE_ALL = "(float[2,3,4] x) => (float y) { y = OP <keepdims = 0> (x) }"
FLATTENED = "(float[2,3,4] x) => (float[2,3,4] y) { y = OP (x) }"
ARG = "(float[2,3,4] x) => (int64[2,4] y) { y = OP <axis = 1, keepdims = 0> (x) }"
RECURRENT = """(float[5,2,3] x) => (float[5,1,2,4] y, float[1,2,4] h)
    <float[1,ROWS,3] w = {WS}, float[1,ROWS,4] r = {RS}>
    { y, h = OP <hidden_size = 4> (x, w, r) }"""


def recurrent(gates: int) -> str:
    """With weights −0.4 … 0.4."""
    ws, rs = (", ".join(str((i * 7 % 9 - 4) / 10) for i in range(gates * 4 * k)) for k in (3, 4))
    text = RECURRENT.replace("ROWS", str(gates * 4))
    return text.replace("WS", ws).replace("RS", rs)


CASES: dict[str, str | dict[int, str]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), BINARY),
    **dict.fromkeys(("Greater", "Less", "GreaterOrEqual", "LessOrEqual"), COMPARE),
    **{op: {6: SAME_SHAPES, 8: VARIADIC} for op in ("Max", "Min", "Mean", "Sum")},
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), FLATTENED),
    **dict.fromkeys(("ArgMax", "ArgMin"), ARG),
    "Abs": UNARY,
    "AveragePool": """(float[1,2,5,5] x) => (float[1,2,3,3] y)
        { y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x) }""",
    "BatchNormalization": """(float[2,2,3] x) => (float[2,2,3] y)
        <float[2] s = {2, 3}, float[2] b = {1, -1}, float[2] m = {0.5, 0}, float[2] v = {1, 4}>
        { y = BatchNormalization <epsilon = 0.01> (x, s, b, m, v) }""",
    "Cast": "(float[2,3] x) => (int32[2,3] y) { y = Cast <to = 6> (x) }",
    "Ceil": UNARY,
    "Clip": {
        6: """(float[2,3] x) => (float[2,3] y)
            { a = Clip <min = -0.5> (x)  b = Clip <max = 0.25> (a)  y = Clip (b) }""",
        11: """(float[2,3] x) => (float[2,3] y) <float l = {-0.5}, float h = {0.25}>
            { y = Clip (x, l, h) }""",
    },
    "Compress": """(float[2,3] x) => (float[2,2] y) <bool[3] c = {1, 0, 1}>
        { y = Compress <axis = 1> (x, c) }""",
    "Concat": "(float[2,3] x, float[2,1] z) => (float[2,4] y) { y = Concat <axis = 1> (x, z) }",
    "Constant": """(float[2] x) => (float[2] y)
        { c = Constant <value = float[2] {1, 2}> () y = Sub (x, c) }""",
    "Conv": """(float[1,2,5,5] x, float[3,2,3,3] w) => (float[1,3,3,3] y)
        { y = Conv <strides = [2,2], pads = [1,1,1,1]> (x, w) }""",
    "ConvTranspose": """(float[1,2,3,3] x, float[2,3,2,2] w) => (float[1,3,6,6] y)
        { y = ConvTranspose <strides = [2,2]> (x, w) }""",
    "CumSum": "(float[2,3] x) => (float[2,3] y) <int64 a = {1}> { y = CumSum (x, a) }",
    "DepthToSpace": """(float[1,8,2,3] x) => (float[1,2,4,6] y)
        { y = DepthToSpace <blocksize = 2> (x) }""",
    "DequantizeLinear": """(uint8[2,3] x) => (float[2,3] y) <float s = {0.5}, uint8 z = {3}>
        { y = DequantizeLinear (x, s, z) }""",
    "Dropout": {
        7: "(float[2,3] x) => (float[2,3] y) { y = Dropout <ratio = 0.3> (x) }",
        12: "(float[2,3] x) => (float[2,3] y) <float r = {0.3}> { y = Dropout (x, r) }",
    },
    "Equal": """(int64[2,3] x, int64[3] z) => (bool[2,3] y) { y = Equal (x, z) }""",
    "Erf": UNARY,
    "Exp": UNARY,
    "Expand": """(float[2,1] x) => (float[3,2,4] y) <int64[3] s = {3, 1, 4}>
        { y = Expand (x, s) }""",
    "Flatten": "(float[2,3,4] x) => (float[6,4] y) { y = Flatten <axis = 2> (x) }",
    "Floor": UNARY,
    "GRU": recurrent(3),
    "Gather": """(float[4,3] x) => (float[2,3] y) <int64[2] i = {2, 0}>
        { y = Gather (x, i) }""",
    "GatherElements": """(float[2,3] x) => (float[2,2] y) <int64[2,2] i = {2, 0, 1, 1}>
        { y = GatherElements <axis = 1> (x, i) }""",
    "GatherND": """(float[2,3] x) => (float[2] y) <int64[2,2] i = {1, 0, 0, 2}>
        { y = GatherND (x, i) }""",
    "Gemm": """(float[2,3] x, float[4,3] w, float[4] b) => (float[2,4] y)
        { y = Gemm <alpha = 0.5, transB = 1> (x, w, b) }""",
    "Identity": UNARY,
    "If": {
        1: """(bool c, float[2] x) => (float[2] y)
            { y = If (c) <then_branch = t () => (float[2] a) { a = Clip <min = 0.0> (x) },
                          else_branch = e () => (float[2] b) { b = Neg (x) }> }""",
        11: """(bool c, float[2] x) => (float[2] y)
            { y = If (c) <then_branch = t () => (float[2] a) { a = Abs (x) },
                          else_branch = e () => (float[2] b) { b = Neg (x) }> }""",
    },
    "IsNaN": "(float[2,3] x) => (bool[2,3] y) { y = IsNaN (x) }",
    "LRN": "(float[1,4,2,2] x) => (float[1,4,2,2] y) { y = LRN <size = 3> (x) }",
    "LSTM": recurrent(4),
    "LeakyRelu": UNARY,
    "Log": UNARY,
    "Loop": """(float[2] x) => (float[2] y) <int64 n = {3}, bool c = {1}>
        { y = Loop (n, c, x) <body = b (int64 i, bool p, float[2] a) => (bool q, float[2] z)
                              { q = Identity (p) z = Add (a, x) }> }""",
    "LpPool": """(float[1,2,4,4] x) => (float[1,2,2,2] y)
        { y = LpPool <kernel_shape = [2,2], strides = [2,2], p = 2> (x) }""",
    "MatMul": "(float[2,3] x, float[3,4] w) => (float[2,4] y) { y = MatMul (x, w) }",
    "MaxPool": """(float[1,2,5,5] x) => (float[1,2,3,3] y)
        { y = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x) }""",
    "MaxUnpool": """(float[1,1,4,4] x) => (float[1,1,4,4] y)
        { p, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)
          y = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (p, i) }""",
    "MeanVarianceNormalization": """(float[1,2,3,3] x) => (float[1,2,3,3] y)
        { y = MeanVarianceNormalization (x) }""",
    "Mod": "(float[2,3] x, float[3] z) => (float[2,3] y) { y = Mod <fmod = 1> (x, z) }",
    "Neg": UNARY,
    "NegativeLogLikelihoodLoss": """(float[2,3] x) => (float y) <int64[2] t = {2, 0}>
        { y = NegativeLogLikelihoodLoss <reduction = "mean"> (x, t) }""",
    "NonMaxSuppression": """(float[1,4,4] x, float[1,1,4] s) => (int64[n,3] y)
        <int64 m = {3}, float t = {0.5}> { y = NonMaxSuppression (x, s, m, t) }""",
    "NonZero": "(float[2,3] x) => (int64[2,n] y) { y = NonZero (x) }",
    "OneHot": """(float[2,3] x) => (float[3,5] y)
        <int64[3] i = {4, 0, 2}, int64 d = {5}, float[2] v = {0, 1}> { y = OneHot (i, d, v) }""",
    "PRelu": BINARY,
    "Pad": {
        2: """(float[2,3] x) => (float[4,4] y)
            { y = Pad <pads = [1,0,1,1], value = 1.5> (x) }""",
        11: """(float[2,3] x) => (float[4,4] y) <int64[4] p = {1, 0, 1, 1}, float v = {1.5}>
            { y = Pad (x, p, v) }""",
    },
    "QuantizeLinear": """(float[2,3] x) => (uint8[2,3] y) <float s = {0.1}, uint8 z = {99}>
        { y = QuantizeLinear (x, s, z) }""",
    "RNN": recurrent(1),
    "Reciprocal": UNARY,
    **{f"Reduce{kind}": REDUCE for kind in ("L2", "LogSumExp", "Max", "Mean", "Min")},
    **{f"Reduce{kind}": REDUCE_ALL for kind in ("L1", "LogSum", "Prod", "SumSquare")},
    "ReduceSum": {
        1: """(float[2,3,4] x) => (float[2,4] y)
            { y = ReduceSum <axes = [1], keepdims = 0> (x) }""",
        11: "(float[2,3,4] x) => (float[1,1,1] y) { y = ReduceSum (x) }",
    },
    "Relu": UNARY,
    "Reshape": """(float[2,3,4] x) => (float[2,12] y) <int64[2] s = {0, -1}>
        { y = Reshape (x, s) }""",
    "Resize": {
        10: """(float[1,1,4,4] x) => (float[1,1,6,10] y) <float[4] s = {1, 1, 1.5, 2.5}>
            { y = Resize (x, s) }""",
        11: """(float[1,1,4,4] x) => (float[1,1,6,10] y)
            <float[0] r = {}, float[0] s = {}, int64[4] d = {1, 1, 6, 10}>
            { y = Resize <mode = "linear"> (x, r, s, d) }""",
    },
    "RoiAlign": """(float[1,1,6,6] x) => (float[1,1,2,2] y)
        <float[1,4] r = {0.5, 0.3, 4.1, 5.2}, int64[1] b = {0}>
        { y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, r, b) }""",
    "Scan": {
        8: """(float[1,3,2] x) => (float[1,3,2] y)
            { y = Scan <num_scan_inputs = 1,
                        body = b (float[2] i) => (float[2] o) { o = Neg (i) }> ("", x) }""",
        9: """(float[3,2] x, float[2] z) => (float[2] a, float[3,2] y)
            { a, y = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] i)
                => (float[2] t, float[2] o) { t = Add (s, i) o = Clip <min = 0.0> (t) }>
              (z, x) }""",
        11: """(float[3,2] x, float[2] z) => (float[2] a, float[3,2] y)
            { a, y = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] i)
                => (float[2] t, float[2] o) { t = Add (s, i) o = Neg (t) }> (z, x) }""",
    },
    **dict.fromkeys(
        ("Scatter", "ScatterElements"),
        """(float[2,3] x, float[1,2] u) => (float[2,3] y) <int64[1,2] i = {2, 0}>
        { y = OP <axis = 1> (x, i, u) }""",
    ),
    "ScatterND": """(float[4] x, float[2] u) => (float[4] y) <int64[2,1] i = {3, 1}>
        { y = ScatterND (x, i, u) }""",
    "Shape": "(float[2,n] x) => (int64[2] y) { y = Shape (x) }",
    "Sigmoid": UNARY,
    "Sign": UNARY,
    "Size": "(float[2,n] x) => (int64 y) { y = Size (x) }",
    "Slice": {
        1: """(float[4,5] x) => (float[2,3] y)
            { y = Slice <starts = [1,-4], ends = [3,4], axes = [0,1]> (x) }""",
        10: """(float[4,5] x) => (float[2,2] y) <int64[2] s = {1, 0}, int64[2] e = {3, 99},
            int64[2] a = {0, 1}, int64[2] t = {1, 3}> { y = Slice (x, s, e, a, t) }""",
    },
    "SoftmaxCrossEntropyLoss": """(float[2,3] x) => (float y) <int64[2] t = {2, 0}>
        { y = SoftmaxCrossEntropyLoss (x, t) }""",
    "SpaceToDepth": """(float[1,2,4,6] x) => (float[1,8,2,3] y)
        { y = SpaceToDepth <blocksize = 2> (x) }""",
    "Split": """(float[2,5] x) => (float[2,2] y, float[2,3] z)
        { y, z = Split <axis = 1, split = [2,3]> (x) }""",
    "Sqrt": UNARY,
    "Squeeze": "(float[2,1,3,1] x) => (float[2,3] y) { y = Squeeze <axes = [1,3]> (x) }",
    "Tanh": UNARY,
    "Tile": """(float[2,3] x) => (float[4,3] y) <int64[2] r = {2, 1}> { y = Tile (x, r) }""",
    "TopK": {
        1: "(float[2,5] x) => (float[2,3] y, int64[2,3] i) { y, i = TopK <k = 3> (x) }",
        10: """(float[2,5] x) => (float[2,3] y, int64[2,3] i) <int64[1] k = {3}>
            { y, i = TopK (x, k) }""",
    },
    "Transpose": "(float[2,3] x) => (float[3,2] y) { y = Transpose (x) }",
    "Unsqueeze": "(float[2,3] x) => (float[2,1,3] y) { y = Unsqueeze <axes = [1]> (x) }",
    "Upsample": {
        7: """(float[1,1,2,3] x) => (float[1,1,4,9] y)
            { y = Upsample <scales = [1.0,1.0,2.0,3.0]> (x) }""",
        9: """(float[1,1,3,3] x) => (float[1,1,6,7] y) <float[4] s = {1, 1, 2, 2.5}>
            { y = Upsample <mode = "linear"> (x, s) }""",
    },
    "Where": """(bool[2,1] c, float[2,3] x, float[3] z) => (float[2,3] y)
        { y = Where (c, x, z) }""",
}  # fmt: skip


def _versions() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, set()).add(schema.since_version)
    return found


def changed_versions() -> dict[str, list[int]]:
    """Op → its versions in opsets 7 … 12 that are not its version in opset 17."""
    changed = {}
    for op, versions in _versions().items():
        newest = max((v for v in versions if v <= CONVERTED), default=0)
        old = {max((v for v in versions if v <= o), default=0) for o in range(OLDEST, NEWEST + 1)}
        if old - {newest, 0}:
            changed[op] = sorted(old - {newest, 0})
    return changed


def newest_opset(op: str, version: int) -> int:
    """The newest opset up to 12 that has this version of the op."""
    newer = [v for v in _versions()[op] if v > version]
    return min(NEWEST, *(v - 1 for v in newer))


def text_of(op: str, version: int) -> str:
    """The graph for a version of the op."""
    case = CASES[op]
    if isinstance(case, dict):
        case = case[max(v for v in case if v <= version)]
    return case.replace("OP", op)
