# SPDX-License-Identifier: Apache-2.0
"""Reading a recipe file: YAML or TOML text into a mapping, and the line of every key."""

import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from qcompile.errors import InputError, nearest


@dataclass
class RecipeText:
    """The mapping of a recipe file. lines: (number of the rule or None, key) → line, from 1."""

    data: dict[str, Any]
    lines: dict[tuple[int | None, str], int] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)

    def line(self, rule: int | None, key: str) -> int:
        """The key's line; of a rule written in one line, the line of `rules`."""
        return self.lines.get((rule, key), self.lines.get((None, "rules"), 1))


def read_text(path: Path) -> RecipeText:
    """The file's mapping; InputError when it cannot be read or is none."""
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise InputError(f'recipe {path}: "{path.suffix}" is not one of .yaml, .yml, .toml')
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return RecipeText(tomllib.loads(text), _toml_lines(text))
        data = yaml.safe_load(text)
        found = RecipeText(data)
        _find_yaml_lines(text, found)
    except UnicodeDecodeError:
        raise InputError(f"recipe {path}: it is no UTF-8 text") from None
    except OSError as error:
        raise InputError(f"recipe {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise InputError(f"recipe {path} line {line}: no YAML: {error.problem}") from None
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        kind = "TOML" if path.suffix == ".toml" else "YAML"
        raise InputError(f"recipe {path}: no {kind}: {error}") from None
    if not isinstance(data, dict):
        what = "nothing" if data is None else f"a {type(data).__name__}"
        raise InputError(f"recipe {path}: must be a mapping of keys, found {what}")
    return found


def _find_yaml_lines(text: str, found: RecipeText) -> None:
    top = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(top, yaml.MappingNode):
        return
    _add(found, None, top)
    for key, value in top.value:
        if key.value == "rules" and isinstance(value, yaml.SequenceNode):
            for number, rule in enumerate(value.value):
                if isinstance(rule, yaml.MappingNode):
                    _add(found, number, rule)


def _add(found: RecipeText, rule: int | None, mapping: yaml.MappingNode) -> None:
    for key, _ in mapping.value:
        place, line = (rule, str(key.value)), key.start_mark.line + 1
        if place in found.lines:
            found.twice.append(f'line {line}: "{key.value}" is also in line {found.lines[place]}')
        found.lines[place] = line


def _toml_lines(text: str) -> dict[tuple[int | None, str], int]:
    lines: dict[tuple[int | None, str], int] = {}
    rule: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[\[\s*rules\s*\]\]", line):
            rule = 0 if rule is None else rule + 1
            lines.setdefault((None, "rules"), number)
        elif match := re.match(r"""\s*\[?\s*["']?([\w-]+)["']?\s*[]=.]""", line):
            lines.setdefault((rule, match[1]), number)
    return lines


_KINDS: dict[type, str] = {
    str: "a word",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of words",
}


def typed(
    data: dict, made: type, rule: int | None, text: RecipeText, path: Path, problems: list[str]
) -> dict[str, Any]:
    """The keys that `made` has and whose values fit; problems are added for the others."""
    kinds = {f.name: _kind(f.type) for f in fields(made) if f.name not in ("source", "rules")}
    known = [*kinds, "rules"] if rule is None else list(kinds)
    kept: dict[str, Any] = {}
    for key, value in data.items():
        where = f"{path} line {text.line(rule, str(key))}"
        if key not in kinds:
            problems.append(f'{where}: unknown key "{key}": {nearest(str(key), known)}')
            continue
        kind = kinds[key]
        if kind is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
            kept[key] = tuple(value)
        elif type(value) is kind:
            kept[key] = value
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            kept[key] = float(value)
        else:
            problems.append(f"{where}: {key} must be {_KINDS[kind]}, found {value!r}")
    return kept


def _kind(annotation: Any) -> type:
    """str of `str | None`, tuple of `tuple[str, ...]`."""
    if get_origin(annotation) is tuple:
        return tuple
    for kind in (str, bool, int, float):
        if annotation is kind or kind in get_args(annotation):
            return kind
    raise TypeError(f"a recipe has no field of type {annotation}")
