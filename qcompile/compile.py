# SPDX-License-Identifier: Apache-2.0
"""THE pipeline: load, normalise, annotate, rotate, calibrate, transform, lower, pack, emit, …"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

from qcompile import runtime_ops, targets
from qcompile.annotate import annotate
from qcompile.artifact import Artifact, load, sha256
from qcompile.batch_norm_ranges import batch_norm_ranges, check_input_range
from qcompile.bodies import all_bodies
from qcompile.calibrate_bodies import calibrate_bodies
from qcompile.calibration_cache import CalibrationCache, calibrate
from qcompile.calibration_selection import check_selection, select_samples
from qcompile.compensate import compensate_weights
from qcompile.complex_roots import roots_for
from qcompile.data import Data, check_source, read_data
from qcompile.division import Division, Footprint
from qcompile.emit import emit, staging
from qcompile.errors import InputError, VerificationError
from qcompile.exact_weights import keep_exact
from qcompile.format_choice import choose_formats
from qcompile.format_choice import planned as formats_planned
from qcompile.format_rotations import turn_formats
from qcompile.improve import improve
from qcompile.layer_cache import LayerCache
from qcompile.load import external_tensors
from qcompile.load import load as load_model
from qcompile.low_rank import add_low_rank
from qcompile.low_rank import planned as will_add
from qcompile.lower import lower
from qcompile.memory import Budget
from qcompile.network_stage import finish_network, for_target, network_of, reference_folder
from qcompile.normalise import normalise
from qcompile.outlier_token import planned_split, split_token
from qcompile.pack import pack
from qcompile.plan import Plan
from qcompile.polish import check_polish, polish
from qcompile.polish import planned as will_polish
from qcompile.product_threads import ProductThreads
from qcompile.progress import Progress
from qcompile.qdq_file import check_qdq, write_qdq
from qcompile.reach_choice import choose_reach
from qcompile.reach_choice import planned as will_clip
from qcompile.recipe import Recipe
from qcompile.recurrent import split_for
from qcompile.rotate import planned, rotate
from qcompile.session import open_model, session_options
from qcompile.settle_formats import settle_formats
from qcompile.softmax_choice import choose_softmax
from qcompile.softmax_choice import planned as will_choose
from qcompile.stage import Inspector
from qcompile.synthetic import LENGTH, made_up
from qcompile.targets.target import Target
from qcompile.timesteps import by_timestep
from qcompile.transform import transform
from qcompile.trial import has_free_length, length_that_runs
from qcompile.tune import planned as will_tune
from qcompile.verdict import Verdict
from qcompile.verify import verify
from qcompile.workers import Workers

Metric = Callable[[ort.InferenceSession], float]


@dataclass(frozen=True)
class Limits:
    """What the user demands: SQNR in dB at least, loss of the metric at most, bytes of memory, and
    processes at once at most.
    """

    min_sqnr: float | None = None
    max_drop: float | None = None
    max_memory: int | None = None
    workers: int = 1


def compile(
    model: str | Path,
    target: str = "cpu",
    output: str | Path | None = None,
    *,
    recipe: Recipe | None = None,
    calibration_data: Any = None,
    force: bool = False,
    limits: Limits | None = None,
    metric: Metric | None = None,
    inspect: Inspector | None = None,
    calibration_cache: str | Path | None = None,
    progress: Progress | None = None,
    qdq_out: str | Path | None = None,
) -> Artifact:
    """Compile a float ONNX file into a low-bit artifact, verify it, and give it back.

    model: path of the .onnx file. output: folder, default MODEL.qc beside it. calibration_data: a
    path, an iterable of {input name: array}, or an object with get_next(). metric: scores a
    session, greater is better; it is run on the float model and on the artifact. calibration_cache:
    an .npz file, read where it exists and written where not. qdq_out: a file for the quantized
    model in standard ONNX (qdq_file.py). Raises InputError (bad input) or VerificationError (the
    artifact is wrong, or misses a limit); then nothing is written.
    """
    recipe, limits, chosen = recipe or Recipe(), limits or Limits(), targets.get(target)
    path, out = Path(model), Path(output) if output is not None else default_output(Path(model))
    recipe = for_target(recipe, chosen)
    _check_request(path, out, chosen, recipe, calibration_data)
    if qdq_out is not None:
        check_qdq(qdq_out, force=force)
    if limits.max_drop is not None and metric is None:
        raise InputError(
            "a largest drop needs a metric: qcompile.compile(…, metric=function of a session)"
        )
    budget = Budget() if limits.max_memory is None else Budget(limits.max_memory)
    cache = None
    if calibration_cache is not None:
        has_data = calibration_data is not None
        cache = CalibrationCache.of(calibration_cache, path, recipe, has_data=has_data)
    with (
        staging(out, force=force) as folder,
        progress or Progress() as shown_to,
        ProductThreads() as threads,
        Workers(limits.workers) as workers,
    ):
        run = shown_to.run
        source = run(load_model, path)
        is_split = split_for(recipe, source, has_data=calibration_data is not None)
        normalised = run(normalise, source, inspect, is_split, roots_for(recipe))
        budget.check(normalised)
        threads.fit(normalised)
        data = _data(calibration_data, list(normalised.graph.inputs), recipe, shown_to)
        plan = run(annotate, normalised, recipe, chosen, has_data=data is not None)
        plan = settle_formats(normalised, keep_exact(normalised, plan, recipe, chosen))
        shown = data or _made_up(path, normalised, recipe, budget, shown_to)
        division = Division(budget, Footprint.of(normalised, shown), workers)
        division.check()
        selected = run(select_samples, normalised, data, recipe, division)
        data, shown = selected.data, selected.data or shown
        split = run(split_token, normalised, plan, recipe, chosen, data, division)
        if split.model is not normalised:
            plan = keep_exact(split.model, split.plan, recipe, chosen)
            plan = settle_formats(split.model, plan)
        rotated = run(rotate, split.model, plan, recipe, data, division)
        unrotated, normalised = normalised, rotated.model
        if rotated.is_changed:
            plan = annotate(normalised, recipe, chosen, has_data=True)
        turned = run(turn_formats, normalised, plan, recipe)
        if turned.is_changed:
            normalised = turned.model
            plan = annotate(normalised, recipe, chosen, has_data=data is not None)
        plan = run(choose_formats, normalised, plan, recipe, data, division)
        plan = settle_formats(normalised, plan)
        plan = run(choose_reach, normalised, plan, recipe, data, division)
        plan = run(choose_softmax, normalised, plan, recipe, data, division)
        plan = replace(plan, rotations=(*rotated.rows, *turned.rows, *split.rows))
        stats = run(calibrate, normalised, plan, recipe, data, cache, division)
        if recipe.activation_polish is not None:
            plan, stats = run(polish, normalised, plan, recipe, data, stats, division)
        layers = LayerCache.of(cache, data, plan)
        stats = run(compensate_weights, normalised, plan, recipe, data, stats, division, layers)
        if recipe.low_rank:
            plan, stats = run(add_low_rank, normalised, plan, recipe, data, stats, division)
        if any(all_bodies(normalised.graph)):
            stats = run(calibrate_bodies, normalised, plan, recipe, data, stats, division, layers)
        quantized = run(transform, normalised, plan, stats, recipe, inspect, budget)
        changes = improve(quantized, normalised, plan, recipe, data, division, layers, shown_to)
        made = [each.note for each in (selected, *changes) if each.note]
        plan = replace(plan, notes=(*plan.notes, *made))
        lowered = run(lower, changes[1].model, plan, chosen, inspect)
        network = network_of(lowered, chosen, recipe)
        packed = run(pack, lowered, chosen)
        described = _describe(path)
        place = folder if network is None else reference_folder(folder)
        artifact = run(emit, packed, plan, recipe, chosen, described, place, shown_to.step)
        models = source, normalised, quantized, lowered
        verdict = run(
            verify, artifact, *models, plan, chosen, shown, stats, division, unrotated, changes
        )
        if network is not None:
            artifact, verdict = run(
                finish_network, artifact, verdict, network, chosen, folder, source, shown
            )
        if metric is not None:
            verdict = _with_metric(verdict, metric, path, artifact)
        _judge(verdict, limits)
        if qdq_out is not None:
            write_qdq(changes[1].model, qdq_out)
        artifact.measured.update(verdict.as_dict() | {"synthetic_data": shown.is_synthetic})
        artifact.write_manifest()
    return replace(artifact, folder=out)


def _made_up(
    path: Path, model: ir.Model, recipe: Recipe, budget: Budget, shown_to: Progress
) -> Data:
    """Random inputs; of a length that the model takes, where it is not too large to try."""
    length = LENGTH
    if has_free_length(model) and not budget.is_large(model):
        length = shown_to.run(length_that_runs, path, model, recipe)
    return replace(made_up(model, recipe, length), watch=shown_to.step)


def plan_only(
    model: str | Path, target: str, recipe: Recipe, calibration_data: Any = None
) -> tuple[Plan, ir.Model]:
    """What --dry-run shows: the plan and the normalised model; nothing is calibrated or written."""
    chosen = targets.get(target)
    recipe = for_target(recipe, chosen)
    check_input_range(recipe, has_data=calibration_data is not None)
    check_polish(recipe, chosen.name)
    check_source(calibration_data)
    has_data, source = calibration_data is not None, load_model(model)
    is_split = split_for(recipe, source, has_data=has_data)
    normalised = normalise(source, None, is_split, roots_for(recipe))
    data = _data(calibration_data, list(normalised.graph.inputs), recipe)
    plan = annotate(normalised, recipe, chosen, has_data=data is not None)
    plan = keep_exact(normalised, plan, recipe, chosen)
    plan = formats_planned(normalised, plan, recipe, has_data=data is not None)
    plan = settle_formats(normalised, plan)
    if data is None:
        batch_norm_ranges(normalised, plan, recipe)  # InputError where there are none
    else:
        steps = [will_clip(plan), will_choose(plan), will_polish(recipe), will_add(recipe)]
        steps.append(will_tune(plan, recipe))
        plan = replace(plan, notes=(*plan.notes, *(note for note in steps if note)))
    rows = () if data is None else planned_split(normalised, plan, recipe)
    turned = turn_formats(normalised, plan, recipe).rows
    rows = (*planned(normalised, plan, recipe, data), *turned, *rows)
    return replace(plan, rotations=rows), normalised


def default_output(model: Path) -> Path:
    """MODEL.onnx → MODEL.qc; another ending stays.

    >>> default_output(Path("nets/resnet.v2.onnx")).name, default_output(Path("resnet.v2")).name
    ('resnet.v2.qc', 'resnet.v2.qc')
    """
    return model.with_name(model.name.removesuffix(".onnx") + ".qc")


def _check_request(path: Path, out: Path, target: Target, recipe: Recipe, data: Any) -> None:
    """What can be refused before the model is read."""
    if path.absolute().resolve().is_relative_to(out.absolute().resolve()):
        raise InputError(f"{path} lies in the output folder {out}: give another -o")
    check_input_range(recipe, has_data=data is not None)
    check_selection(recipe, has_data=data is not None)
    check_polish(recipe, target.name)
    check_source(data)
    if target.compiler is not None:
        target.compiler.check()
    if target.needs_library:
        runtime_ops.library_path()


def _data(
    source: Any, inputs: list[ir.Value], recipe: Recipe, progress: Progress | None = None
) -> Data | None:
    if source is None:
        return None
    data = read_data(source, inputs, recipe.num_calibration_samples)
    if recipe.timestep_input is not None:
        data = by_timestep(data, inputs, recipe.timestep_input)
    return data if progress is None else replace(data, watch=progress.step)


def _describe(path: Path) -> dict[str, Any]:
    """The user's file in the manifest; external data counts into the size."""
    size = path.stat().st_size + sum(t.nbytes for _, t in external_tensors(ir.load(path)))
    return {"file": path.name, "sha256": sha256(path), "bytes": size}


def _with_metric(verdict: Verdict, metric: Metric, path: Path, artifact: Artifact) -> Verdict:
    before = float(metric(open_model(load_model(path), session_options())))
    after = float(metric(load(artifact.folder, trust_library=True)))  # which we just wrote
    return replace(verdict, metric={"float": before, "compiled": after, "drop": before - after})


def _judge(verdict: Verdict, limits: Limits) -> None:
    """Exit code 3 for a failed rung, NaN, or a limit of the user's."""
    problems = [
        f"{c.rung}: {c.measured:.6g} is above {c.limit:.6g} ({c.source}); worst: {c.worst}"
        for c in verdict.failures
    ]
    least, most, found = limits.min_sqnr, limits.max_drop, verdict.sqnr_db
    if least is not None and found is None:
        problems.append(f"--min-sqnr asks for {least:g} dB, and no output is a float to measure")
    elif least is not None and found is not None and not found >= least:
        problems.append(f"SQNR is {found:.2f} dB; --min-sqnr asks for {least:g}")
    if most is not None and not verdict.metric["drop"] <= most:
        problems.append(
            f"the metric drops by {verdict.metric['drop']:.4g}; --max-drop allows {most:g}"
        )
    if problems:
        raise VerificationError(
            "verification failed; nothing was written\n  " + "\n  ".join(problems)
        )
