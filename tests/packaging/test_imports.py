# SPDX-License-Identifier: Apache-2.0
"""The rules of the source tree that no linter knows: who may import whom, names, heads, lengths."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.packaging.source_tree import CPP_SUFFIXES, PACKAGE_FOLDERS, ROOT, files, modules

# A module imports from its own row and from rows above it. A new module gets a place here.
ORDER = (
    ("element_types", "errors", "version"),
    ("array_session",),
    ("external", "formats", "memory", "op_libraries"),
    ("graph", "spec"),
    ("bodies", "decoded_copy", "shape_inference", "step_tables"),
    ("numerics", "windows"),
    ("integer_graph", "integer_maps", "input_range"),
    (
        "int8_ops",
        "poles",
        "layouts",
        "norms",
        "attention",
        "operand_views",
        "repeated_heads",
        "observers",
        "own_weights",
        "imported",
        "plan",
        "rotation_rows",
        "products",
        "recipe",
        "recipe_text",
        "intervals",
        "session",
    ),
    ("runtime_ops",),
    ("passes",),
    ("targets",),
    # The stages, and what only they use.
    (
        *("load", "normalise", "annotate", "calibrate", "transform", "lower"),
        *("pack", "emit", "verify", "report", "provenance"),
        *(
            "artifact",
            "manifest",
            "data",
            "measure",
            "soundness",
            "reference",
            "spread",
            "stage",
            "verdict",
        ),
        *(
            "calibration_cache",
            "calibration_selection",
            "images",
            "inspection",
            "progress",
            "reasons",
            "user_function",
        ),
        *(
            "compare",
            "dynamic_attention",
            "profile",
            "profile_limits",
            "pieces",
            "imported_plan",
            "sum_bounds",
            "synthetic",
            "trial",
            "verify_activations",
            "verify_attention",
            "verify_imported",
            "verify_kept",
            "verify_lowered",
            "verify_nodes",
            "verify_normalised",
            "verify_ties",
            "weighted",
            "widen",
        ),
        *(
            "compensate",
            "division",
            "workers",
            "layer_cache",
            "batch_norm_ranges",
            "moments",
            "product_threads",
            "verify_compensated",
        ),
        *(
            "improve",
            "low_rank",
            "sparsity",
            "move_codes",
            "output_curvature",
            "polish",
            "rebuilt_layer",
            "reconstruct",
            *("reverse", "reverse_codes", "reverse_ops", "reverse_products"),
            *("tunable", "tune", "tuned"),
            "tuning_loss",
            "tuning_samples",
            "tuning_state",
            "tuning_teacher",
            "tuning_work",
        ),
        *("blocks", "rebuild_blocks"),
        *("rank_decay", "saliency", "sharpness", "tape_weights", "tuning_ways", "tunings"),
        *("plan_timesteps", "shared_weights", "timesteps", "verify_sqnr", "verify_tables"),
        *("reach_choice", "verify_tuned", "report_analysis", "softmax_choice", "softmax_listing"),
        *("exact_weights", "format_choice", "format_theory", "settle_formats", "format_listing"),
        *("format_sqnr", "complex_roots", "qdq_file", "analysis", "distribution"),
        *("rotatable", "rotate", "rotated_weights", "rotation_error", "rotation_paths"),
        *("online_rotation", "rotatable_maps", "report_rotation"),
        *(
            "learn_rotation",
            "rotation_cost",
            "rotation_candidates",
            "rotation_edge",
            "rotation_sources",
            "sortable",
            "equalisable",
            "norm_outputs",
            "transform_choice",
            "first_row",
            "format_rotations",
            "outlier_token",
            "token_parts",
            "token_samples",
        ),
        *("recurrent", "verify_recurrent", "verify_rotation", "integer_only", "node_specs"),
        *(
            "code_moves",
            "code_places",
            "integer_facts",
            "map_reader",
            "network",
            "network_check",
            "network_places",
            "network_file",
            "network_session",
            "network_stage",
            "deliver",
            "verify_network",
            "report_network",
            "report_profile",
            "to_integer_graph",
        ),
        *("body_data", "calibrate_bodies", "verify_bodies", "verify_split", "verify_weights"),
        *("allocation", "costs", "metrics", "solvers"),
    ),
    ("compile",),
    ("__init__",),
    ("cli_commands",),
    ("cli_analyze", "cli_stop"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, row in enumerate(ORDER) for name in row}
FORBIDDEN_STEMS = {"utils", "util", "helpers", "helper", "common", "base", "misc", "general"}
MAX_PYTHON_LINES = 300
MAX_CPP_LINES = 500
SPDX = "SPDX-License-Identifier: Apache-2.0"

MODULES = modules()
PYTHON = files(".py")
CPP = files(*CPP_SUFFIXES)


def show(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> list[str]:
    """Every absolute name that a file imports, also in functions; `from a import b` is a.b."""
    names: list[str] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def module_of(name: str, known: dict[str, Path]) -> str | None:
    """The module of the package that an imported name lies in, or None."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def place(module: str) -> str:
    """The entry of ORDER for a module: qcompile.formats.integer is at formats."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def dependencies(known: dict[str, Path]) -> dict[str, set[str]]:
    """The modules of the package that each module imports."""
    found = {name: {module_of(i, known) for i in imported(path)} for name, path in known.items()}
    return {name: {d for d in ds if d is not None} - {name} for name, ds in found.items()}


def wrong_direction(edges: dict[str, set[str]]) -> list[str]:
    """Every import that goes down in ORDER."""
    return [
        f"{name} imports {other}"
        for name, others in sorted(edges.items())
        for other in sorted(others)
        # One without a place fails the test above.
        if RANK.get(place(other), 0) > RANK.get(place(name), len(ORDER))
    ]


def test_every_module_has_a_place() -> None:
    unplaced = sorted(name for name in MODULES if place(name) not in RANK)
    assert unplaced == [], "give each a row in ORDER, in tests/packaging/test_imports.py"


def test_imports_follow_the_order() -> None:
    assert wrong_direction(dependencies(MODULES)) == []


def test_a_wrong_direction_is_found() -> None:
    edges = {"qcompile.passes.lower.x": {"qcompile.targets.cpu"}, "qcompile.spec": set()}
    assert wrong_direction(edges) == ["qcompile.passes.lower.x imports qcompile.targets.cpu"]


def test_there_is_no_cycle() -> None:
    # A package's __init__ may import its modules while they import the package's other modules,
    # so a submodule's edge to its own package is not one.
    edges = {
        name: {d for d in ds if not name.startswith(f"{d}.")}
        for name, ds in dependencies(MODULES).items()
    }
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_package_imports_nothing_of_the_tree_outside_it() -> None:
    outside = {"models", "tests", "benchmarks"}
    found = [
        f"{name} imports {i}"
        for name, path in MODULES.items()
        for i in imported(path)
        if i.partition(".")[0] in outside
    ]
    assert found == []


@pytest.mark.parametrize("folder", [f for f in PACKAGE_FOLDERS if f != "qcompile"])
def test_symlinks(folder: str) -> None:
    link = ROOT / "qcompile" / folder
    # In a source archive that was unpacked without links it is a folder.
    assert link.is_dir()
    assert not link.is_symlink() or link.readlink() == Path("..", folder)


@pytest.mark.parametrize("path", PYTHON, ids=show)
def test_python_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = tree_of(path)
    top = {name.partition(".")[0] for name in imported(path)}
    second_copies = top & {"passes", "targets", "runtime_ops"}
    relative = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level > 0]
    assert not second_copies, f"qcompile.{second_copies.pop()} is the name"
    assert not relative, f"line {relative[0].lineno}: imports are absolute"
    assert SPDX in text.partition("\n")[0], f"line 1 is `# {SPDX}`"
    assert ast.get_docstring(tree) or not is_public(path), "a module says what it is for"
    assert len(text.splitlines()) <= MAX_PYTHON_LINES


@pytest.mark.parametrize("path", CPP, ids=show)
def test_cpp_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert SPDX in text.partition("\n")[0], f"line 1 is `// {SPDX}`"
    assert len(text.splitlines()) <= MAX_CPP_LINES


def is_public(path: Path) -> bool:
    inside = path.relative_to(ROOT).parts[0] in (*PACKAGE_FOLDERS, "models")
    return inside and (path.stem == "__init__" or not path.stem.startswith("_"))


def test_no_file_is_named_after_nothing() -> None:
    assert [show(p) for p in (*PYTHON, *CPP) if p.stem in FORBIDDEN_STEMS] == []
