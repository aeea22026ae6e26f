# SPDX-License-Identifier: Apache-2.0
"""Damaged models, recipes and artifacts. A mutation is named by its kind and its number (seed)."""

import json
import random
import tomllib
from pathlib import Path

import onnx
import yaml
from onnx import AttributeProto, TensorProto

INTEGERS = (0, 1, -1, 2, 3, 7, 31, 33, 255, 2**15, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
WORDS = ("", "x", "../x", "/etc/passwd", "\x00", "a\nb", "int99", "n16k4/2", "é" * 40)
PRESETS = ("w8a8", "w4a8-dynamic", "w9a8", "w4")
YAML = """preset: w4a8-dynamic
edge_bits: 8
block_size: 32
seed: 3
rules:
  - match: "fc.*"
    weight_format: int4
    op_types: [MatMul]
  - match: "conv"
    exclude: true
"""
TOML = """preset = "w8a8-dynamic"
bias_correction = true
[[rules]]
match = "fc.*"
block_size = 64
"""


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few flipped bytes, or a piece cut out, doubled or replaced."""
    out = bytearray(data)
    at, end = sorted((rng.randrange(len(out)), rng.randrange(len(out))))
    end = min(end, at + rng.choice((1, 4, 64, 4096)))
    way = rng.randrange(5)
    if way == 0:
        return bytes(out[:at])
    if way == 1:
        del out[at:end]
    elif way == 2:
        out[at:at] = out[at:end]
    elif way == 3:
        out[at:end] = rng.randbytes(end - at)
    else:
        for _ in range(rng.choice((1, 2, 8))):
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def mutate_model(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """One change in the structure: a tensor's, an attribute's, a node's, a value's."""
    ways = (_tensor, _tensor, _attribute, _attribute, _node, _value, _opset)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    rng.choice(ways)(changed, rng)
    return changed


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        mutate_tensor(rng.choice(model.graph.initializer), rng)


def mutate_tensor(tensor: TensorProto, rng: random.Random) -> None:
    """Its sizes, type, place or name."""
    way = rng.randrange(5)
    if way == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
    elif way == 1:
        tensor.data_type = rng.randrange(24)
    elif way == 2 and tensor.external_data:
        entry = rng.choice(tensor.external_data)
        entry.value = rng.choice((*WORDS, *map(str, INTEGERS)))
    elif way == 3:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif way == 4:
        tensor.dims.append(rng.choice(INTEGERS))
    else:
        del tensor.dims[:]


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    held = [a for n in model.graph.node for a in n.attribute]
    if held:
        mutate_attribute(rng.choice(held), rng)


def mutate_attribute(attribute: AttributeProto, rng: random.Random) -> None:
    """Another value, a list of another length, or another type."""
    if rng.random() < 0.1:
        attribute.type = rng.randrange(15)
    elif attribute.type == AttributeProto.INT:
        attribute.i = rng.choice(INTEGERS)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice((0.0, -1.0, 1e38, float("inf"), float("nan")))
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice(WORDS).encode()
    elif attribute.type == AttributeProto.INTS and attribute.ints and rng.random() < 0.7:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
    elif attribute.type == AttributeProto.INTS:
        attribute.ints.append(rng.choice(INTEGERS))
    elif attribute.type == AttributeProto.FLOATS:
        del attribute.floats[rng.randrange(len(attribute.floats) + 1) :]


def _node(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes, way = model.graph.node, rng.randrange(6)
    node = rng.choice(nodes)
    if way == 0:
        nodes.remove(node)
    elif way == 1 and node.input:
        names = [name for n in nodes for name in (*n.input, *n.output)]
        node.input[rng.randrange(len(node.input))] = rng.choice((*names, "", "missing"))
    elif way == 2:
        node.op_type = rng.choice((*(n.op_type for n in nodes), "Nothing", ""))
    elif way == 3:
        node.domain = rng.choice(("com.qcompile", "com.microsoft", "nowhere"))
    elif way == 4 and node.input:
        del node.input[rng.randrange(len(node.input)) :]
    else:
        node.output[0] = rng.choice((*WORDS, *(n.output[0] for n in nodes)))


def _value(model: onnx.ModelProto, rng: random.Random) -> None:
    value = rng.choice((*model.graph.input, *model.graph.output))
    dims = value.type.tensor_type.shape.dim
    way = rng.randrange(4)
    if way == 0 and dims:
        # a batch of 2^15 is valid, and only slow
        rng.choice(dims).dim_value = rng.choice([i for i in INTEGERS if not 64 < i < 2**40])
    elif way == 1:
        value.type.tensor_type.elem_type = rng.randrange(24)
    elif way == 2:
        value.name = rng.choice(WORDS)
    else:
        value.ClearField("type")


def _opset(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.5 and model.opset_import:
        model.opset_import[0].version = rng.choice((0, -1, 1, 6, 7, 12, 25, 99, 2**40))
    else:
        model.ir_version = rng.choice((0, 1, 3, 13, 99, 2**40))


def mutate_artifact(folder: Path, rng: random.Random) -> None:
    """One fault in the bytes of the model, in its weights, its graph or its manifest."""
    path, manifest, way = folder / "model.onnx", folder / "manifest.json", rng.randrange(7)
    if way < 2:
        rewrite(path, mutate_bytes(path.read_bytes(), rng))
    elif way == 2 and (folder / "model.onnx.data").is_file():
        data = folder / "model.onnx.data"
        rewrite(data, mutate_bytes(data.read_bytes(), rng))
    elif way < 5:
        model = onnx.load(path, load_external_data=False)
        rng.choice((_node, _value, _opset))(model, rng)
        rewrite(path, model.SerializeToString())
    elif way == 5:
        rewrite(manifest, _manifest_value(manifest, rng))
        return
    else:
        rewrite(manifest, mutate_bytes(manifest.read_bytes(), rng))
        return
    agree_on_sizes(folder)


def rewrite(path: Path, data: bytes) -> None:
    """New bytes in a new file: the old one may be a link to a seed."""
    path.unlink()
    path.write_bytes(data)


def agree_on_sizes(folder: Path) -> None:
    """The manifest says the sizes that the damaged files have, so that loading goes on."""
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for name, facts in content["content"]["files"].items():
        facts["bytes"] = (folder / name).stat().st_size
    rewrite(manifest, json.dumps(content).encode())


def mutate_recipe(text: str, suffix: str, rng: random.Random) -> bytes:
    """Damaged bytes, or another value in a place of the recipe."""
    if rng.random() < 0.5:
        return mutate_bytes(text.encode(), rng)
    content = yaml.safe_load(text) if suffix == ".yaml" else tomllib.loads(text)
    _change_value(content, (None, [], {}, "x", "", -1, 0, 2**70, 0.5, True, *PRESETS), rng)
    return (json.dumps(content) if suffix == ".yaml" else _as_toml(content)).encode()


def _as_toml(content: dict) -> str:
    """Of what JSON says alike: strings, numbers and lists."""
    rows = [(k, v) for k, v in content.items() if v is not None and not isinstance(v, dict | list)]
    lines = [f"{k} = {json.dumps(v)}" for k, v in rows]  # `rules` too, where it is no list
    rules = content.get("rules")
    for rule in rules if isinstance(rules, list) else []:
        facts = rule.items() if isinstance(rule, dict) else []
        lines += ["[[rules]]", *(f"{k} = {json.dumps(v)}" for k, v in facts if v is not None)]
    return "\n".join(lines)


def _manifest_value(path: Path, rng: random.Random) -> bytes:
    content = json.loads(path.read_text(encoding="utf-8"))
    _change_value(content, (None, [], {}, "x", "../x", -1, 2**70, 0.5, True), rng)
    return json.dumps(content).encode()


def _change_value(place: dict | list, values: tuple, rng: random.Random) -> None:
    """One of the values in a random place, or nothing there."""
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            break
        place = inner
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(values)
