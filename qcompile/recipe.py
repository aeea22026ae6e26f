# SPDX-License-Identifier: Apache-2.0
"""Recipe: what the user wrote. Flags, a YAML or TOML file, and presets become one frozen value.

preset: w4a8-dynamic
rules:
  - match: "/layer1/.*"          # a regular expression on the node's whole name; later rules win
    weight_format: int8
  - match: "/layer2/depthwise"
    activation_granularity: axis   # a static scale a channel; depthwise convolutions alone have it
  - match: "/head/.*"
    exclude: true
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qcompile.errors import InputError, nearest
from qcompile.formats.block import AUTO, block_format
from qcompile.input_range import parse
from qcompile.numerics.softmax_formats import NAMES as SOFTMAX_FORMATS
from qcompile.observers import OBSERVERS
from qcompile.observers.ternary_scale import STATISTICS
from qcompile.plan import QUANTIZED_OPS
from qcompile.recipe_text import read_text, typed

DYNAMIC_BITS = (2, 4, 8)
_PRESET = re.compile(
    r"w(?P<weight>[1-8])a((?P<dynamic>4|8)-dynamic|(?P<static>[2-8])|(?P<float>16))"
)


@dataclass(frozen=True)
class Preset:
    """Bits of weights and activations; activation is "static", "dynamic" or "float"."""

    name: str
    weight_bits: int
    activation: str
    activation_bits: int

    @classmethod
    def parse(cls, name: str) -> "Preset":
        """The preset of that name.

        >>> Preset.parse("w4a8-dynamic").activation
        'dynamic'
        """
        match = _PRESET.fullmatch(name)
        if match is None:
            raise InputError(f'unknown preset "{name}": {nearest(name, preset_names())}')
        bits = int(match["dynamic"] or match["static"] or match["float"])
        kind = "dynamic" if match["dynamic"] else "static" if match["static"] else "float"
        return cls(name, int(match["weight"]), kind, bits)

    def inside_bodies(self) -> "Preset":
        """The preset where activations have no static ranges: static ones become dynamic.

        >>> Preset.parse("w4a8").inside_bodies().name, Preset.parse("w4a16").inside_bodies().name
        ('w4a8-dynamic', 'w4a16')
        """
        if self.activation != "static":
            return self
        bits = self.activation_bits if self.activation_bits == 4 else 8
        return Preset.parse(f"w{self.weight_bits}a{bits}-dynamic")


def _name_inside(preset: str) -> str:
    return Preset.parse(preset).inside_bodies().name


def preset_names() -> list[str]:
    """Every preset, the common ones first."""
    activations = ["8", "8-dynamic", "16", "4-dynamic", "2", "3", "4", "5", "6", "7"]
    return [f"w{w}a{a}" for a in activations for w in (8, 4, 3, 2, 1, 5, 6, 7)]


@dataclass(frozen=True)
class Rule:
    """One line of a recipe: which nodes, and what differs for them."""

    match: str = ".*"
    op_types: tuple[str, ...] = ()
    preset: str | None = None
    weight_format: str | None = None
    block_size: int | None = None
    activation_granularity: str | None = None
    exclude: bool = False
    source: str = "recipe"

    def covers(self, node: str, op_type: str) -> bool:
        """Whether the rule is about this node."""
        return (not self.op_types or op_type in self.op_types) and bool(
            re.fullmatch(self.match, node)
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result; None = the default, which annotate names."""

    preset: str | None = None
    weight_format: str | None = None
    activation_format: str | None = None
    block_size: int | None = None
    edge_bits: int = 8
    calibration_method: str | None = None
    calibration_percentile: float = 99.99
    activation_polish: str | None = None
    softmax_format: str | None = None
    weight_scale_method: str | None = None
    weight_rounding: str | None = None
    rotation: str = "auto"
    sparsity: str | None = None
    low_rank: float = 0.0
    effort: str = "default"
    tuning: str = "plain"
    num_calibration_samples: int = 256
    calibration_select: int | None = None
    calibration_groups: str | None = None
    timestep_input: str | None = None
    timestep_buckets: int = 16
    input_range: str | None = None
    op_types_to_quantize: tuple[str, ...] = ()
    integer_only: bool = False
    batch: int | None = None
    bias_correction: bool = True
    seed: int = 0
    rules: tuple[Rule, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise InputError("\n".join(problems))

    def inside_bodies(self) -> "Recipe":
        """The recipe for bodies of If, Loop and Scan, without static activations."""
        rules = tuple(
            rule if rule.preset is None else replace(rule, preset=_name_inside(rule.preset))
            for rule in self.rules
        )
        return replace(self, rules=rules)

    def _problems(self) -> list[str]:
        found = _chosen_problems(self.preset, self.weight_format, self.block_size)
        found += [_message(block_format, form) for form in (self.activation_format,) if form]
        if not 1 <= self.edge_bits <= 8:
            found.append(f"edge bits {self.edge_bits}: 1 to 8 are possible")
        if not 0 <= self.low_rank <= 0.5:
            found.append(f"low rank {self.low_rank:g}: a share of 0 to 0.5 of the smaller side")
        counts = self.num_calibration_samples, self.calibration_select
        few = [count for count in counts if count is not None and count < 1]
        found += [f"{count} calibration samples: at least 1 is needed" for count in few]
        if self.calibration_groups is not None and self.calibration_select is None:
            found.append("calibration groups need calibration select: how many samples to take")
        if not 50 < self.calibration_percentile <= 100:
            found.append(
                f"calibration percentile {self.calibration_percentile:g}: above 50, at most 100"
            )
        found += [] if self.input_range is None else [_message(parse, self.input_range)]
        if self.batch is not None and self.batch < 1:
            found.append(f"batch {self.batch}: at least 1 is needed")
        if self.timestep_buckets < 1:
            found.append(f"timestep buckets {self.timestep_buckets}: at least 1 is needed")
        if self.seed < 0:
            found.append(f"seed {self.seed}: 0 or more is needed")
        found += _op_problems(self.op_types_to_quantize)
        for known, word, what in (
            (CALIBRATION_METHODS, self.calibration_method, "calibration method"),
            (WEIGHT_SCALE_METHODS, self.weight_scale_method, "weight scale method"),
            (WEIGHT_ROUNDINGS, self.weight_rounding, "weight rounding"),
            (ROTATIONS, self.rotation, "rotation"),
            (SPARSITIES, self.sparsity, "sparsity"),
            (SOFTMAX_FORMATS, self.softmax_format, "softmax format"),
            (ACTIVATION_POLISHES, self.activation_polish, "activation polish"),
            (EFFORTS, self.effort, "effort"),
            (TUNING_WORDS, self.tuning, "tuning"),
        ):
            if word is not None and word not in known:
                found.append(f'unknown {what} "{word}": {nearest(word, known)}')
        for rule in self.rules:
            found += [f"{problem} ({rule.source})" for problem in _rule_problems(rule)]
        return [problem for problem in found if problem]

    @classmethod
    def read(cls, path: str | Path) -> "Recipe":
        """The recipe of a .yaml, .yml or .toml file; all problems at once, keys with their line."""
        path = Path(path)
        text = read_text(path)
        rules = text.data.get("rules", [])
        if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
            line = text.line(None, "rules")
            raise InputError(f"{path} line {line}: rules must be a list of mappings")
        problems = [f"{path} {problem}" for problem in text.twice]
        top = {k: v for k, v in text.data.items() if k != "rules"}
        if top.get("rotation") is False:
            top["rotation"] = "off"  # YAML's false
        kept = typed(top, cls, None, text, path, problems)
        built = tuple(
            Rule(**typed(r, Rule, i, text, path, problems), source=f"{path.name} rule {i + 1}")
            for i, r in enumerate(rules)
        )
        try:
            recipe = cls(**kept, rules=built)
        except InputError as error:
            problems += [f"{path}: {line}" for line in str(error).splitlines()]
        if problems:
            raise InputError("\n".join(problems))
        return recipe

    def with_flags(self, **flags: Any) -> "Recipe":
        """The recipe with the flags that were given (not None) in its place: flag > recipe."""
        return replace(self, **{k: v for k, v in flags.items() if v is not None})


CALIBRATION_METHODS = tuple(OBSERVERS)
WEIGHT_SCALE_METHODS = ("minmax", "mse", "slim", "ggd", *STATISTICS)
ACTIVATION_GRANULARITIES = ("tensor", "axis")  # axis: a static scale a channel
WEIGHT_ROUNDINGS = (
    *("nearest", "gptq", "descent", "sequential", "adaround", "adaquant"),
    *("distribution", "kfac", "pv", "blocks", "light", "advanced"),
)
ACTIVATION_POLISHES, SPARSITIES = ("lognp",), ("2:4",)
ROTATIONS, EFFORTS = ("auto", "learned", "off"), ("quick", "default", "best")
TUNING_WORDS = ("plain", "sharpness", "saliency", "rank-decay")


def _chosen_problems(preset: str | None, form: str | None, block_size: int | None) -> list[str]:
    found = []
    if preset is not None:
        found.append(_message(Preset.parse, preset))
    if form not in (None, AUTO):
        found.append(_message(block_format, form))
    if block_size is not None and (block_size < 32 or block_size % 32):
        found.append(f"block size {block_size}: must be a multiple of 32, at least 32")
    return [problem for problem in found if problem]


def _rule_problems(rule: Rule) -> list[str]:
    found = _chosen_problems(rule.preset, rule.weight_format, rule.block_size)
    found += _op_problems(rule.op_types)
    word = rule.activation_granularity
    if word is not None and word not in ACTIVATION_GRANULARITIES:
        what = nearest(word, ACTIVATION_GRANULARITIES)
        found.append(f'unknown activation granularity "{word}": {what}')
    try:
        re.compile(rule.match)
    except re.error as error:
        found.append(f'"{rule.match}" is no regular expression: {error}')
    return found


def _op_problems(words: tuple[str, ...]) -> list[str]:
    return [
        f'unknown op type "{word}": {nearest(word, QUANTIZED_OPS)}'
        for word in words
        if word not in QUANTIZED_OPS
    ]


def _message(function: Any, name: str) -> str:
    try:
        function(name)
    except InputError as error:
        return str(error)
    return ""
