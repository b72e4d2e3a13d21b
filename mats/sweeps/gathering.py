"""From folders to results: those of a sweep, or of several merges that were made one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mats.errors import RequestError
from mats.reporting.report import Report, validate_report
from mats.reporting.sweep_results import DatasetScore, PointResult, SplitScores, SweepResults
from mats.reporting.sweep_writer import write_sweep_report
from mats.sweeps.folder import PointFolder, SweepFolder, read_json
from mats.sweeps.points import shown_value
from mats.sweeps.selection import merged_entry, select_points
from mats.sweeps.spec import SelectSection, Sweep

SCORES = "scores-"
ALIKE = ("output", "device", "memory_budget", "max_shard_size", "evaluate")
"""Keys in which the recipes of merges that are compared may differ without being told apart by it."""


def write_results(root: Path) -> list[str]:
    """Table, plots and page of a sweep's folder, from what lies in it; the names of the files written.

    Raises:
        RequestError: the folder holds no sweep.
    """
    return write_sweep_report(gather_sweep(root), root)


def gather_sweep(root: Path) -> SweepResults:
    """The results in a sweep's folder.

    Raises:
        RequestError: it holds no sweep.
        WorkFailed: a file in it is damaged.
    """
    folder = SweepFolder(root)
    settings = read_json(folder.settings)
    if settings is None:
        raise RequestError(f"{root}: holds no sweep (no {folder.settings.name}); a folder of mats sweep would be right")
    sweep = Sweep.model_validate(settings["sweep"])
    points = tuple(
        _point(folder.point(entry["digest"]), entry["number"], entry["digest"], entry["columns"])
        for entry in settings["points"]
    )
    select = sweep.select
    scored = [(point, _value(point, select)) for point in points if point.state == "done"]
    return SweepResults(
        title=f"Sweep {root.name}",
        axes=tuple(settings["axes"]),
        points=points,
        split=select.split,
        metric=select.metric,
        report_split=None if sweep.report is None else sweep.report.split,
        selected=tuple(point.number for point in select_points(scored, select)),
        notes=tuple(_notes(sweep, points)),
    )


def _value(point: PointResult, select: SelectSection) -> float | None:
    scores = point.scores.get(select.split)
    return None if scores is None else scores.mean_of(select.metric)


def _notes(sweep: Sweep, points: Sequence[PointResult]) -> list[str]:
    """How the selection was made, and what weakens it."""
    select, report = sweep.select, sweep.report
    per = f" for each value of {', '.join(select.per)}" if select.per else ""
    notes = [f"Selected{per}: the {select.order} {select.metric.replace('_', ' ')} on split {select.split}."]
    done = sum(point.state == "done" for point in points)
    if report is not None and report.points == "selected":
        notes.append(f"Split {report.split} was scored for the selected points alone, after the selection.")
    elif report is not None:
        notes.append(f"Split {report.split} was scored for all points; the selection did not look at it.")
    notes.append(
        f"A selected point is the best of several ({done} points are done), so its score on {select.split} is too high "
        "by chance; the score on another split is the one to quote."
    )
    measured = {point.recipe.get("curvature", {}).get("split") for point in points if point.recipe}
    if report is not None and report.split in measured and any(point.report and _uses_data(point) for point in points):
        notes.append(f"Metadata were measured on split {report.split}, which is also the one reported.")
    failed, missing = (sum(point.state == state for point in points) for state in ("failed", "missing"))
    if failed:
        notes.append(f"{failed} of {len(points)} points failed; they are listed below and were not selected from.")
    if missing:
        notes.append(f"{missing} of {len(points)} points are not finished; the selection may still change.")
    return notes


def _uses_data(point: PointResult) -> bool:
    return point.report is not None and any(model.get("metadata") for model in point.report["models"])


def _point(place: PointFolder, number: int, name: str, columns: Mapping[str, Any]) -> PointResult:
    outcome = place.outcome() or {}
    described = place.described() or {}
    scores = {path.stem.removeprefix(SCORES): read_json(path) for path in sorted(place.path.glob(f"{SCORES}*.json"))}
    return PointResult(
        number=number,
        name=name,
        columns=columns,
        state=place.state(),
        error=outcome.get("error"),
        scores={split: split_scores(value) for split, value in scores.items() if value is not None},
        seconds=outcome.get("seconds"),
        made_by=outcome.get("made_by"),
        peak_memory_bytes=outcome.get("peak_memory_bytes"),
        report=_report(place.report(), place.path),
        recipe=described.get("recipe", {}),
    )


def _report(value: Mapping[str, Any] | None, place: Path) -> Report | None:
    return None if value is None else validate_report(value, source=str(place / "report.json"))


def split_scores(value: Mapping[str, Any]) -> SplitScores:
    """The merged model's scores in the value of a scores file."""
    entry = merged_entry(value)
    if entry is None:
        return SplitScores({})
    relative = entry.get("relative", {})
    datasets = {
        name: DatasetScore(
            metric=result["metric"],
            value=result["value"],
            metrics=result["metrics"],
            interval=_interval(result.get("interval")),
            relative=relative.get(name),
            examples=result.get("examples"),
        )
        for name, result in entry["results"].items()
    }
    return SplitScores(datasets, entry.get("mean"), entry.get("mean_relative"))


def _interval(value: Sequence[float] | None) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def gather_merges(folders: Sequence[Path]) -> SweepResults:
    """Merges made one by one, told apart by the keys in which their recipes differ; nothing is selected.

    Raises:
        RequestError: a folder holds no merge.
    """
    recipes = [_merge_recipe(folder) for folder in folders]
    flat = [_flat({key: value for key, value in recipe.items() if key not in ALIKE}) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    axes = [key for key in keys if len({shown_value(one.get(key)) for one in flat}) > 1]
    points = []
    for number, (folder, one, recipe) in enumerate(zip(folders, flat, recipes, strict=True), start=1):
        place = PointFolder(folder)
        columns = {"folder": str(folder), **{key: one[key] for key in axes if key in one}}
        found = _point(place, number, str(folder), columns)
        run = place.run_info()
        points.append(
            PointResult(
                number=number,
                name=str(folder),
                columns=columns,
                scores=found.scores,
                seconds=run.get("seconds"),
                peak_memory_bytes=run.get("peak_memory_bytes"),
                report=found.report,
                recipe=recipe,
            )
        )
    splits = sorted({split for point in points for split in point.scores})
    split = "validation" if "validation" in splits else next(iter(splits), "validation")
    relative = any(scores.mean_relative is not None for point in points for scores in point.scores.values())
    return SweepResults(
        title=f"{len(points)} merges",
        axes=("folder", *axes),
        points=tuple(points),
        split=split,
        metric="mean_relative" if relative else "mean",
        notes=("These merges were made one by one; no point was selected.",),
    )


def _merge_recipe(folder: Path) -> dict[str, Any]:
    report = read_json(folder / "report.json")
    if report is None:
        raise RequestError(f"{folder}: holds no merge (no report.json); a folder of mats merge would be right")
    return dict(report.get("recipe") or {"settings": report.get("settings", {})})


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones; models by name."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if key == "models" and not prefix and isinstance(item, list):
            flat["models"] = "+".join(model["name"] for model in item)
            for model in item:
                own = {k: v for k, v in model.items() if k != "name"}
                flat |= _flat(own, f"models.{model['name']}.")
        elif isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item if not isinstance(item, (list, tuple)) else json.dumps(item)
    return flat
