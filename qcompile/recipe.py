# SPDX-License-Identifier: Apache-2.0
"""Recipe: what the user wrote. Flags, a YAML or TOML file, and presets become one frozen value.

preset: w4a8-dynamic
rules:
  - match: "/layer1/.*"          # a regular expression on the node's whole name; later rules win
    weight_format: int8
  - match: "/head/.*"
    exclude: true
"""

import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

import qcompile.formats as formats
from qcompile.errors import InputError, nearest

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
    calibration_method: str = "minmax"
    weight_scale_method: str = "mse"
    num_calibration_samples: int = 256
    op_types_to_quantize: tuple[str, ...] = ()
    bias_correction: bool = True
    seed: int = 0
    rules: tuple[Rule, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        problems = [p for p in self._problems() if p]
        if problems:
            raise InputError("\n".join(problems))

    def _problems(self) -> list[str]:
        found = []
        for name in (self.preset, *(r.preset for r in self.rules)):
            if name is not None:
                found.append(_message(Preset.parse, name))
        for name in (
            self.weight_format,
            self.activation_format,
            *(r.weight_format for r in self.rules),
        ):
            if name is not None:
                found.append(_message(formats.get, name))
        for size in (self.block_size, *(r.block_size for r in self.rules)):
            if size is not None and (size < 32 or size % 32):
                found.append(f"block size {size}: must be a multiple of 32, at least 32")
        if not 1 <= self.edge_bits <= 8:
            found.append(f"edge bits {self.edge_bits}: 1 to 8 are possible")
        if self.num_calibration_samples < 1:
            found.append(
                f"{self.num_calibration_samples} calibration samples: at least 1 is needed"
            )
        for known, word, what in (
            (CALIBRATION_METHODS, self.calibration_method, "calibration method"),
            (WEIGHT_SCALE_METHODS, self.weight_scale_method, "weight scale method"),
        ):
            if word not in known:
                found.append(f'unknown {what} "{word}": {nearest(word, known)}')
        for rule in self.rules:
            try:
                re.compile(rule.match)
            except re.error as error:
                found.append(f'"{rule.match}" is no regular expression: {error} ({rule.source})')
        return found

    @classmethod
    def read(cls, path: str | Path) -> "Recipe":
        """The recipe of a .yaml, .yml or .toml file; unknown keys are refused with their line."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"recipe {path}: {error}") from None
        data = _parse(path, text)
        problems = _unknown(data, _RECIPE_KEYS, text, path)
        rules = data.pop("rules", [])
        if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
            raise InputError(f"recipe {path}: rules must be a list of mappings")
        for rule in rules:
            problems += _unknown(rule, _RULE_KEYS, text, path)
        if problems:
            raise InputError("\n".join(problems))
        built = tuple(
            Rule(**_tuples(rule), source=f"{path.name} rule {i + 1}")
            for i, rule in enumerate(rules)
        )
        try:
            return cls(**_tuples(data), rules=built)
        except TypeError as error:
            raise InputError(f"recipe {path}: {error}") from None

    def with_flags(self, **flags: Any) -> "Recipe":
        """The recipe with the flags that were given (not None) in its place: flag > recipe."""
        return replace(self, **{k: v for k, v in flags.items() if v is not None})


CALIBRATION_METHODS = ("minmax", "mse")
WEIGHT_SCALE_METHODS = ("minmax", "mse")
_RECIPE_KEYS = [f for f in Recipe.__dataclass_fields__]
_RULE_KEYS = [f for f in Rule.__dataclass_fields__ if f != "source"]


def _message(function: Any, name: str) -> str:
    try:
        function(name)
    except InputError as error:
        return str(error)
    return ""


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix not in (".yaml", ".yml"):
            raise InputError(f'recipe {path}: "{path.suffix}" is not one of .yaml, .yml, .toml')
        data = yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise InputError(f"recipe {path}: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"recipe {path}: must be a mapping of keys, found {type(data).__name__}")
    return data


def _unknown(data: dict, known: list[str], text: str, path: Path) -> list[str]:
    return [
        f'{path} line {_line_of(str(key), text)}: unknown key "{key}": {nearest(str(key), known)}'
        for key in data
        if key not in known
    ]


def _line_of(key: str, text: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(rf"(^|[\s\-{{,\[]){re.escape(key)}\s*[:=\].]", line):
            return number
    return 1


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
