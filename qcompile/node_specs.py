# SPDX-License-Identifier: Apache-2.0
"""What a preset means for one node: the specs of its weight and its input, the target's request."""

from dataclasses import replace

import onnx_ir as ir

import qcompile.formats as formats
from qcompile.errors import InputError
from qcompile.formats import Format
from qcompile.formats.block import AUTO, block_format, stored_scales
from qcompile.graph import ROOTS, TOKEN, attribute, is_op, static_shape
from qcompile.products import is_depthwise, weight_of
from qcompile.recipe import Preset, Recipe, Rule
from qcompile.spec import QuantSpec
from qcompile.targets.target import Request

BLOCK_SIZE = 32
SPECIAL_BLOCK_SIZE = 128  # of BitMoD's groups
TERNARY_BLOCK_SIZE = 160  # 20 columns are a chunk; 1.7 bits a weight with the scales


def without_turns(recipe: Recipe) -> Recipe:
    """The recipe for bodies, in which nothing is turned: the presets' own formats."""

    def kept(asked: str | None) -> str | None:
        return None if _is_turned(asked) else asked

    rules = tuple(replace(r, weight_format=kept(r.weight_format)) for r in recipe.rules)
    return replace(recipe, rules=rules, weight_format=kept(recipe.weight_format))


def weight_spec_of(
    node: ir.Node, bits: int, activation: str, asked: str | None, block_size: int | None
) -> QuantSpec:
    """Conv and static products: one symmetric scale an output.

    Others below 8 bits: blocks of 32 with f16 scales and zero points; ternary in blocks of 160. One
    bit means ±1 (`binary`), because int1 has only 0 and −1. asked: a format or a block format, of
    which a product with one scale an output takes the element. Integer products have entries of at
    most 16 bits.
    """
    by_output = is_op(node, "Conv") or activation == "static"
    by_output |= ROOTS in node.metadata_props and block_size is None
    blocked = not by_output and (bits < 8 or block_size is not None)
    scale = "f16"
    if asked is not None:
        found = block_format(asked)
        chosen, scale = found.element, found.scale or scale
        chosen = chosen if activation == "float" else chosen.in_int16()
        block_size = block_size or (None if by_output else found.block_size)
        is_row = chosen.turns is not None and not chosen.turns.block
        blocked = not by_output and ((chosen.bits < 8 and not is_row) or block_size is not None)
        symmetric = chosen.is_signed
    elif bits == 1:
        chosen, symmetric = formats.get("binary"), True
    else:
        symmetric = not blocked or bits == 8
        chosen = formats.get(f"{'int' if symmetric else 'uint'}{bits}")
    if blocked or (block_size is not None and not is_op(node, "Conv")):
        stored = stored_scales(chosen, scale)
        return QuantSpec(chosen, "block", 1, block_size or usual_block(chosen), symmetric, stored)
    return QuantSpec(chosen, "axis", 0, is_symmetric=symmetric)


def usual_block(format: Format) -> int:
    """The weights that share a scale where nothing else is asked.

    >>> [usual_block(formats.get(name)) for name in ("int4", "ternary", "bitmod4")]
    [32, 160, 128]
    """
    if format.turns is not None and format.turns.block:
        return format.turns.block
    if format.specials:
        return SPECIAL_BLOCK_SIZE
    return BLOCK_SIZE if format.levels is None else TERNARY_BLOCK_SIZE


def asked_format(node: ir.Node, recipe: Recipe, rule: Rule | None) -> str | None:
    """The format that the recipe asks of a node; None where it is the preset's, or is chosen.

    None, too, for formats of turned rows where no input can be turned. Turned complex weights have
    the one that they were turned for.
    """
    asked = _format_word(recipe, rule)
    if ROOTS in node.metadata_props:
        return asked if formats.is_iroots(asked) else formats.IROOTS
    if not _is_turned(asked):
        return None if asked == AUTO else asked
    value = node.inputs[0] if is_op(node, "MatMul", "Gemm") else None
    size = value.shape[-1] if value is not None and value.shape else None
    return asked if isinstance(size, int) and size > 1 else None


def odd_format(node: ir.Node, asked: str | None) -> str | None:
    """Why the node cannot have the format that is asked for, whatever the target."""
    if not formats.is_iroots(asked) or ROOTS in node.metadata_props:
        return None
    return (
        f"{formats.IROOTS} is for complex products: four MatMul of two inputs and two constant "
        "matrices, added up to a real and an imaginary part; give this one another format by a "
        "rule, or leave it out with --nodes-to-exclude"
    )


def _is_turned(asked: str | None) -> bool:
    """Whether the format is one of turned rows."""
    return asked not in (None, AUTO) and block_format(asked or "").element.turns is not None


def is_chosen(recipe: Recipe, rule: Rule | None) -> bool:
    """Whether the recipe leaves the format of a node to format_choice.py."""
    return _format_word(recipe, rule) == AUTO


def _format_word(recipe: Recipe, rule: Rule | None) -> str | None:
    return (rule.weight_format if rule is not None else None) or recipe.weight_format


def activation_spec_of(node: ir.Node, preset: Preset, recipe: Recipe) -> QuantSpec | None:
    """The spec of the node's input; a gathered table has none."""
    if is_op(node, "Gather") or preset.activation == "float":
        return None
    if preset.activation == "dynamic":
        granularity = "sample" if is_op(node, "Conv") else "row"
        return QuantSpec(formats.get(f"int{preset.activation_bits}"), granularity)
    if TOKEN in node.metadata_props:  # one row, whose codes may be wide (outlier_token.py)
        return static_spec(replace(preset, activation_bits=8), recipe)
    return static_spec(preset, recipe)


def static_spec(preset: Preset, recipe: Recipe) -> QuantSpec:
    """Static activations: unsigned, one scale a tensor, with a zero point."""
    chosen = formats.get(recipe.activation_format or f"uint{preset.activation_bits}")
    if chosen.is_table or chosen.is_signed or chosen.has_codebook:
        raise InputError(f"static activations are unsigned integers; {chosen} was asked: use uint8")
    return QuantSpec(chosen, "tensor", is_symmetric=False)


def request_of(node: ir.Node, weight: QuantSpec, activation: QuantSpec | None) -> Request:
    """The node as a target sees it."""
    value = weight_of(node)
    dims = static_shape(value) if value is not None else None
    assert dims is not None
    group = int(attribute(node, "group", 1)) if is_op(node, "Conv") else 1
    k = 1
    for size in dims[2 if is_op(node, "LSTM") else 1 :]:
        k *= size
    return Request(node.op_type, weight, activation, k, group, is_depthwise(node, dims))
