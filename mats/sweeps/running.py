"""Running a sweep, or a shard of it, and collecting what all shards have done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mats.errors import InputsMismatch, MatsError, RequestError, WorkFailed
from mats.files import write_json_atomically
from mats.progress import Progress, Silent
from mats.recipes.checking import Problem, exit_status, input_problems
from mats.recipes.schema import Recipe
from mats.sweeps.folder import State, SweepFolder
from mats.sweeps.gathering import write_results
from mats.sweeps.loading import LoadedSweep
from mats.sweeps.measuring import missing_stores
from mats.sweeps.points import Point
from mats.sweeps.selection import select_points
from mats.sweeps.snapshots import Group, group_points
from mats.sweeps.working import Worker

_ERRORS: dict[int, type[MatsError]] = {kind.exit_status: kind for kind in (WorkFailed, RequestError, InputsMismatch)}
Shard = tuple[int, int]
"""(i, n): the i-th of n parts, counted from 1."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a run leaves: numbers of points by state, those selected, and the files written."""

    output: Path
    points: int
    done: int
    failed: tuple[tuple[int, str], ...]
    missing: int
    selected: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


def parse_shard(text: str) -> Shard:
    """`2/8` as (2, 8).

    Raises:
        RequestError: it has another form, or i is not from 1 to n.
    """
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise RequestError(f"--shard {text}: i/n with i from 1 to n would be right, as 1/8")
    return int(first), int(count)


def shard_groups(points: Sequence[Point], shard: Shard | None) -> list[Group]:
    """The merges of one shard: every n-th, so that neighbours, which cost alike, are spread evenly."""
    groups = group_points(points)
    return groups if shard is None else groups[shard[0] - 1 :: shard[1]]


def check_inputs(loaded: LoadedSweep) -> None:
    """Everything that headers and dataset files can tell before any work.

    Raises:
        MatsError: of the kind that tells most; every problem on a line of its own.
    """
    problems: dict[Problem, None] = {}
    splits = [loaded.sweep.select.split, *([loaded.sweep.report.split] if loaded.sweep.report else [])]
    for recipe in _distinct_inputs(loaded.points):
        for split in splits:
            evaluate = recipe.evaluate.model_copy(update={"split": split})
            found = input_problems(recipe.model_copy(update={"evaluate": evaluate}))
            problems |= dict.fromkeys(found)
    if problems:
        status = exit_status(list(problems))
        raise _ERRORS[status]("\n".join(problem.message for problem in problems))


def _distinct_inputs(points: Sequence[Point]) -> list[Recipe]:
    """Recipes that together name every base, model and dataset of the sweep: few, whatever the number of points."""
    recipes: dict[tuple[str | None, str], Recipe] = {}
    for point in points:
        key = (point.recipe.base, point.recipe.curvature.split)
        held = recipes.setdefault(key, point.recipe)
        known = {model.name: model for model in held.models}
        fresh = [model for model in point.recipe.models if known.get(model.name) != model]
        if fresh and all(model.name not in known for model in fresh):
            recipes[key] = held.model_copy(update={"models": (*held.models, *fresh)})
        elif fresh:
            recipes[(point.recipe.base, point.digest)] = point.recipe
    return list(recipes.values())


def plan_lines(loaded: LoadedSweep, shard: Shard | None = None) -> list[str]:
    """What a run would do, a line per point."""
    groups = shard_groups(loaded.points, shard)
    chosen = sorted((point for group in groups for point in group), key=lambda point: point.number)
    folder = SweepFolder(loaded.output)
    states: dict[State, int] = {"done": 0, "failed": 0, "missing": 0}
    lines = []
    for point in chosen:
        state = folder.point(point.digest).state()
        states[state] += 1
        lines.append(f"{point.number}: {point.label} [{'to do' if state == 'missing' else state}] {point.digest}")
    stores = missing_stores([point.recipe for point in chosen if folder.point(point.digest).state() != "done"])
    lines += [f"would measure {store}" for store in stores]
    left = states["missing"] + states["failed"]
    made = f"{len(chosen)} points by {len(groups)} merges, {left} points to do; {len(stores)} stores to measure"
    return [*lines, f"{made}; results in {loaded.output}"]


def run_sweep(loaded: LoadedSweep, shard: Shard | None = None, progress: Progress | None = None) -> SweepOutcome:
    """Work on every point that is not finished; without a shard, collect at the end.

    A point that fails is recorded with its error, and the others go on. Killed at any moment, the same call goes on.

    Raises:
        MatsError: something is wrong with the inputs of all points, or the sweep's folder cannot be written.
    """
    progress = progress or Silent()
    check_inputs(loaded)
    write_settings(loaded)
    worker = Worker(loaded, progress)
    for group in shard_groups(loaded.points, shard):
        worker.work(group)
    return collect_sweep(loaded, progress) if shard is None else outcome_of(loaded, shard)


def collect_sweep(loaded: LoadedSweep, progress: Progress | None = None) -> SweepOutcome:
    """Select among all points that are done, report the selected ones, and write table, plots and page.

    The reported split is read only when no point is missing: before, the selection may still change.

    Raises:
        MatsError: reporting the selected points fails, or a file cannot be written.
    """
    progress = progress or Silent()
    write_settings(loaded)
    worker = Worker(loaded, progress)
    outcome = outcome_of(loaded)
    done = [point for point in loaded.points if worker.folder.point(point.digest).state() == "done"]
    selected = select_points([(point, worker.value(point)) for point in done], loaded.sweep.select)
    report = loaded.sweep.report
    if report is not None and not outcome.missing:
        for point in selected:
            worker.report(point, report.split)
    if loaded.sweep.keep != "all":
        worker.prune(selected if loaded.sweep.keep == "best" else (), done)
    files = write_results(loaded.output)
    numbers = tuple(point.number for point in selected)
    return SweepOutcome(
        outcome.output, outcome.points, outcome.done, outcome.failed, outcome.missing, numbers, tuple(files)
    )


def outcome_of(loaded: LoadedSweep, shard: Shard | None = None) -> SweepOutcome:
    """How far the sweep, or a shard of it, has come."""
    chosen = {point.digest for group in shard_groups(loaded.points, shard) for point in group}
    points = [point for point in loaded.points if point.digest in chosen]
    folder = SweepFolder(loaded.output)
    failed = []
    states: list[State] = []
    for point in points:
        place = folder.point(point.digest)
        states.append(place.state())
        if states[-1] == "failed":
            failed.append((point.number, str((place.outcome() or {}).get("error"))))
    return SweepOutcome(loaded.output, len(points), states.count("done"), tuple(failed), states.count("missing"))


def write_settings(loaded: LoadedSweep) -> None:
    """`sweep.json`: what was run, so that results can be told without the sweep file."""
    root = loaded.output
    root.mkdir(parents=True, exist_ok=True)
    write_json_atomically(
        SweepFolder(root).settings,
        {
            "schema_version": 1,
            "file": str(loaded.path),
            "sweep": loaded.sweep.model_dump(mode="json"),
            "axes": list(loaded.axes),
            "points": [
                {"number": point.number, "digest": point.digest, "columns": dict(point.columns)}
                for point in loaded.points
            ],
        },
    )
