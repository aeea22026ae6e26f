# SPDX-License-Identifier: Apache-2.0
"""More graphs of the ops that opset 17 writes otherwise: MORE[case] is the opset and ONNX text."""

MORE: dict[str, tuple[int, str]] = {
    "softmax over all": (9, "(float[2,3] x) => (float[2,3] y) { y = Softmax <axis = 0> (x) }"),
    "softmax last": (11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax <axis = -1> (x) }"),
    "softmax last but one": (
        11,
        "(float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax <axis = -2> (x) }",
    ),
    "softmax of unknown rank": (
        9,
        """(float[2,3,4] x) => (float[2,3,4] y) <bool[3] c = {1, 1, 1}>
        { s = Shape (x) k = Compress (s, c) a = Reshape (x, k) y = Softmax <axis = 2> (a) }""",
    ),
    "softmax is read twice": (
        9,
        """(float[2,3,4] x) => (float[2,3,4] y, float[2,3,4] z)
        { y = Softmax (x) z = Neg (y) }""",
    ),
    "squeeze all": (7, "(float[2,1,3] x) => (float[2,3] y) { y = Squeeze (x) }"),
    "split evenly": (
        7,
        "(float[2,4] x) => (float[2,2] y, float[2,2] z) { y, z = Split <axis = 1> (x) }",
    ),
    "slice without axes": (
        7,
        "(float[4,5] x) => (float[2,4] y) { y = Slice <starts = [1,0], ends = [3,-1]> (x) }",
    ),
    "reflect": (
        9,
        '(float[2,3] x) => (float[2,5] y) { y = Pad <pads = [0,1,0,1], mode = "reflect"> (x) }',
    ),
    "dropout with a mask nobody reads": (
        7,
        "(float[2,3] x) => (float[2,3] y) { y, m = Dropout (x) }",
    ),
    **{
        f"resize {mode} by {a}, {b}": (
            10,
            f"""(float[1,1,6,6] x) => (float[1,1,{int(6 * a)},{int(6 * b)}] y)
            <float[4] s = {{1, 1, {a}, {b}}}> {{ y = Resize <mode = "{mode}"> (x, s) }}""",
        )
        for mode in ("nearest", "linear")
        for a, b in ((2, 2), (0.5, 0.5), (0.6, 1.5), (1.4, 2.7), (0.7, 0.35))
    },
    "resize by computed scales": (
        10,
        """(float[1,1,6,6] x) => (float[1,1,n,m] y) <float[4] h = {2, 2, 1.4, 3.4}>
        { k = Shape (x) f = Cast <to = 1> (k) g = Div (f, f) t = Constant <value = float {0.5}> ()
          i = Mul (g, t) s = Mul (i, h) y = Resize (x, s) }""",
    ),
    **{
        f"resize 11 {mode}": (
            11,
            f"""(float[1,1,4,4] x) => (float[1,1,6,10] y)
            <float[0] r = {{}}, float[4] s = {{1, 1, 1.5, 2.5}}>
            {{ y = Resize <coordinate_transformation_mode = "{mode}", mode = "linear"> (x, r, s) }}
            """,
        )
        for mode in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    },
    "resize 11 nearest tf": (
        11,
        """(float[1,1,4,4] x) => (float[1,1,6,10] y)
        <float[0] r = {}, float[4] s = {1, 1, 1.5, 2.5}>
        { y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, s) }""",
    ),
}  # fmt: skip
