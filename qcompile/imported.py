# SPDX-License-Identifier: Apache-2.0
"""Reading products that the user's model holds in codes: weight, scales, and its activations.

Weights are behind DequantizeLinear, or in MatMulNBits; what cannot be read has a reason. One form
is left of each meaning: signed codes where the zero point is the middle, else unsigned ones with
zero points. The packed bytes are the same in both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.formats as formats
from qcompile.formats import Format
from qcompile.formats.block import stored_scales
from qcompile.formats.onnx_types import FORMAT_OF_TYPE
from qcompile.formats.scales import with_unit
from qcompile.graph import attribute, constant, input_of, is_constant, is_op, static_shape
from qcompile.numerics.quantize import store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.products import is_by_channel
from qcompile.spec import QuantSpec

MICROSOFT = "com.microsoft"
IMPORTED_OPS = ("Conv", "MatMul", "Gemm", "Gather")
# Metadata of a product whose activations the user's model quantizes at run time.
ACTIVATION, DYNAMIC = "qcompile.activation", "dynamic"
UNIT = "qcompile.unit"  # metadata of a scale: the float that its codes counted in


@dataclass(frozen=True)
class ImportedWeight:
    """A weight that the model holds in codes.

    name: of its numbers. dims: [N, K] or [N, C/g, kh, kw]. read: the codes as [N, K], when needed.
    """

    name: str
    dims: tuple[int, ...]
    spec: QuantSpec
    read: Callable[[], CodedWeight]


def is_nbits(node: ir.Node | None) -> bool:
    """Whether the node is ONNX Runtime's product with packed weights."""
    return is_op(node, "MatMulNBits", domain=MICROSOFT)


def imported_weight(node: ir.Node) -> ImportedWeight | str | None:
    """The node's weight, why its codes cannot be used, or None where it has no codes."""
    if is_nbits(node):
        return _nbits_weight(node)
    if not is_op(node, *IMPORTED_OPS):
        return None
    value, is_turned = input_of(node, 0 if is_op(node, "Gather") else 1), False
    producer = value.producer() if value is not None else None
    if is_op(producer, "Transpose") and is_op(node, "MatMul", "Gemm"):
        assert producer is not None
        if tuple(attribute(producer, "perm", (1, 0))) == (1, 0):
            is_turned, value = True, producer.inputs[0]
    back = value.producer() if value is not None else None
    if back is None or not is_op(back, "DequantizeLinear") or not is_constant(back.inputs[0]):
        return None
    if is_op(node, "MatMul") or (is_op(node, "Gemm") and not attribute(node, "transB", 0)):
        is_turned = not is_turned
    return _behind_dequantize(node, back, is_turned=is_turned)


def static_input(node: ir.Node) -> QuantSpec | str | None:
    """The spec of the node's static activations, why they have no kernel, or None for floats."""
    value = node.inputs[0]
    back = value.producer() if value is not None else None
    if back is None or not is_op(back, "DequantizeLinear") or is_op(node, "Gather"):
        return None
    codes, scale = back.inputs[0], constant(back.inputs[1])
    if codes is None or scale is None or constant(input_of(back, 2)) is None:
        return "the scale of its activations is computed at run time"
    if codes.dtype != ir.DataType.UINT8:
        return f"its activations are {codes.dtype} codes; 8-bit codes have kernels"
    if scale.size != 1:
        point = np.asarray(constant(input_of(back, 2)))
        if not is_by_channel(back, scale, point):
            return (
                f"its activations have {scale.size} scales, and not one a channel with one zero "
                "point for all"
            )
        return QuantSpec(formats.get("uint8"), "axis", 1, is_symmetric=False)
    return QuantSpec(formats.get("uint8"), "tensor", is_symmetric=False)


def input_spec(node: ir.Node) -> QuantSpec | str | None:
    """How the node takes its activations: static, dynamic, or None for floats; or why not."""
    is_dynamic = node.metadata_props.get(ACTIVATION) == DYNAMIC
    if is_dynamic or (is_nbits(node) and attribute(node, "accuracy_level", 0) == 4):
        granularity = "sample" if is_op(node, "Conv") else "row"
        return QuantSpec(formats.get("int8"), granularity)
    return static_input(node)


def decoded(back: ir.Node) -> NDArray[np.float32]:
    """What DequantizeLinear gives for constant codes of one scale an element: one f32 product."""
    codes, scale = np.asarray(constant(back.inputs[0])), np.asarray(constant(back.inputs[1]))
    point = constant(input_of(back, 2))
    wide = codes.astype(np.int64) - (0 if point is None else point.astype(np.int64))
    return np.asarray(wide.astype(np.float32) * scale.astype(np.float32))


def _behind_dequantize(
    node: ir.Node, back: ir.Node, *, is_turned: bool
) -> ImportedWeight | str | None:
    codes, scale, point = back.inputs[0], back.inputs[1], input_of(back, 2)
    assert codes is not None and scale is not None
    dims, scales = static_shape(codes), static_shape(scale)
    if dims is None or 0 in dims or scales is None:
        return f"its codes have the shape {codes.shape}"
    form = FORMAT_OF_TYPE.get(codes.dtype.name if codes.dtype is not None else "")
    if form is None:
        known = ", ".join(FORMAT_OF_TYPE)
        return f"its weight is {codes.dtype} codes; those of {known} have kernels"
    if formats.get(form).is_table and (reason := _odd_floats(codes, point)) is not None:
        return reason
    if len(dims) != (4 if is_op(node, "Conv") else 2):
        return f"its weight has {len(dims)} dimensions; a matrix and a 2-D Conv have kernels"
    if not is_constant(scale) or scale.dtype != ir.DataType.FLOAT:
        return "its weight's scale is no float32 constant"
    if point is not None and not is_constant(point):
        return "its weight's zero point is computed at run time"
    axis, size = attribute(back, "axis", 1) % len(dims), int(attribute(back, "block_size", 0))
    outputs = 1 if is_turned else 0
    if size and (is_op(node, "Conv") or axis == outputs):
        return f"its weight has blocks along axis {axis}"
    if scales not in ((), (1,)) and not size and axis != outputs:
        return f"its weight has one scale for each index of axis {axis}, not for each output"
    kind = "block" if size else "axis" if np.prod(scales) > 1 else "tensor"
    turned = (dims[1], dims[0]) if is_turned else dims

    def rows(value: ir.Value) -> NDArray:
        array = np.asarray(constant(value))
        if kind != "block":
            return array.reshape(-1)
        return array.T if is_turned else array

    def matrix() -> NDArray:
        array = np.asarray(constant(codes))
        plain = array.view(np.uint8) if formats.get(form).is_table else array
        return (plain.T if is_turned else plain).reshape(turned[0], -1).astype(np.int16)

    points = None if point is None else rows(point).astype(np.int16)
    name = f"{back.outputs[0].name}{'_nk' if is_turned else ''}"
    unit = float(scale.metadata_props.get(UNIT, "0"))
    if formats.get(form).is_table:
        points, kind = None, "axis" if kind == "tensor" else kind
    return _weight(name, turned, kind, size, form, matrix, rows(scale), points, unit)


def _odd_floats(codes: ir.Value, point: ir.Value | None) -> str | None:
    """What no table has: NaN, infinity, zero points."""
    if point is not None and np.asarray(constant(point)).astype(np.float32).any():
        return f"its zero point is not 0, and its weight is {codes.dtype}"
    array = np.asarray(constant(codes))
    if not np.isfinite(array.astype(np.float32)).all():
        return f"its weight has {codes.dtype} codes that are NaN or infinite"
    return None


def _nbits_weight(node: ir.Node) -> ImportedWeight | str:
    packed, scale, point = node.inputs[1], node.inputs[2], input_of(node, 3)
    if input_of(node, 4) is not None and input_of(node, 4).type is not None:  # type: ignore[union-attr]
        return "its columns are in another order (g_idx)"
    if not is_constant(packed) or not is_constant(scale) or packed is None or scale is None:
        return "its weight is computed at run time"
    bits, size = int(attribute(node, "bits", 4)), int(attribute(node, "block_size"))
    n, k = int(attribute(node, "N")), int(attribute(node, "K"))
    blocks = -(-k // size)
    if bits not in (2, 4, 8) or scale.dtype != ir.DataType.FLOAT:
        return f"its weight is {bits} bits with {scale.dtype} scales; 2, 4, 8 and float32 are read"
    if point is not None and (not is_constant(point) or point.dtype != ir.DataType.UINT8):
        return f"its zero points are {point.dtype}; packed uint8 constants are read"

    def matrix() -> NDArray:
        return _unpack(np.asarray(constant(packed)).reshape(n, -1), bits)[:, :k]

    scales = np.asarray(constant(scale)).reshape(n, blocks)
    points = np.full((n, blocks), 2 ** (bits - 1), np.int16)
    if point is not None:
        points = _unpack(np.asarray(constant(point)).reshape(n, -1), bits)[:, :blocks]
    return _weight(
        f"{packed.name}_unpacked", (n, k), "block", size, f"uint{bits}", matrix, scales, points
    )


def _unpack(packed: NDArray, bits: int) -> NDArray[np.int16]:
    """Codes of a row of bytes, the low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[:, :, None] >> shifts) & (2**bits - 1)
    return codes.reshape(len(packed), -1).astype(np.int16)


def _weight(
    name: str,
    dims: tuple[int, ...],
    kind: str,
    block_size: int,
    stored: str,
    matrix: Callable[[], NDArray],
    scale: NDArray,
    points: NDArray | None,
    unit: float = 0,
) -> ImportedWeight | str:
    """The weight in the one form of its meaning; scale and points per tensor, output or block.

    Scales of blocks are stored in the fewest bytes that keep them. unit: the float that they
    counted in, if they did.
    """
    chosen = formats.get(stored)
    scale = scale.astype(np.float32) * np.float32(chosen.table_scale)
    sizes = np.abs(scale[scale != 0])
    if not np.isfinite(scale).all() or (kind != "block" and not scale.all()):
        return "its weight has a scale that is not finite, or 0 for a whole output"
    if sizes.min(initial=1) < np.finfo(np.float32).tiny:
        return "its weight has a scale below 2^-126 (N6)"
    offset = chosen.offset  # to unsigned codes
    middle = 2 ** (chosen.bits - 1)
    unsigned = np.broadcast_to(np.int16(0) if points is None else points, scale.shape) + offset
    is_symmetric = chosen.is_table or bool((unsigned == middle).all())
    plain: Format = formats.get(f"{'int' if is_symmetric else 'uint'}{chosen.bits}")
    final = chosen if chosen.is_table else plain
    form = _stored_as(final, scale, unit * chosen.table_scale) if kind == "block" else "f32"
    spec = QuantSpec(
        final,
        kind,
        1 if kind == "block" else 0,
        block_size,
        is_symmetric,
        form,
    )
    shift = offset - final.offset

    def spread(values: NDArray) -> NDArray:
        if kind == "block":
            return np.ascontiguousarray(values)
        return np.ascontiguousarray(np.broadcast_to(values.reshape(-1, 1), (dims[0], 1)))

    def read() -> CodedWeight:
        return CodedWeight(
            (matrix() + np.int16(shift)).astype(np.int16),
            spread(scale),
            None if is_symmetric else spread(unsigned.astype(np.int16)),
            final,
            block_size,
            form,
        )

    return ImportedWeight(name, dims, spec, read)


def _stored_as(format: Format, scale: NDArray[np.float32], unit: float) -> str:
    """The scale format of fewest bytes that keeps all scales of blocks."""
    tried = ["e8m0", stored_scales(format, "f16"), "bf16"]
    if unit:
        tried.insert(0, with_unit("ue4m3", unit))
    same = (form for form in tried if np.array_equal(store_scale(scale, form), scale))
    return next(same, "f32")
