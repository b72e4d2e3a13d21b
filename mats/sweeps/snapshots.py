"""Points that differ in the number of solver iterations alone: one solve makes them all, by keeping its iterates."""

from __future__ import annotations

from collections.abc import Sequence

from mats.methods.quadratic import QuadraticSettings
from mats.recipes.schema import Recipe
from mats.sweeps.folder import PointFolder, SweepFolder
from mats.sweeps.points import Point, digest

SNAPSHOTS = "snapshots"
Group = tuple[Point, ...]
"""Points that one merge makes, by rising number of iterations; most groups have one point."""


def group_points(points: Sequence[Point]) -> list[Group]:
    """The points by the merge that makes them, each result once, in the order of the sweep.

    Iterates of one solve are those of shorter solves only where nothing but the count stops an iteration early: solvers
    cg and pcg, without a radius, in a precision that does not restart.
    """
    distinct = {point.digest: point for point in reversed(points)}
    groups: dict[str, list[Point]] = {}
    for point in sorted(distinct.values(), key=lambda point: point.number):
        key = digest(_without_iterations(point.recipe)) if _keeps_iterates(point.recipe) else point.digest
        groups.setdefault(key, []).append(point)
    return [tuple(sorted(group, key=iterations_of)) for group in groups.values()]


def iterations_of(point: Point) -> int:
    """How many iterations a point's solver may take; 0 for methods that solve nothing."""
    settings = point.recipe.merge.settings
    return settings.solver.max_iterations if isinstance(settings, QuadraticSettings) else 0


def recipe_for_all(group: Group) -> Recipe:
    """The recipe of the longest solve that keeps the iterates of the others."""
    longest = group[-1].recipe
    if len(group) == 1:
        return longest
    settings = longest.merge.settings
    assert isinstance(settings, QuadraticSettings)
    kept = tuple(iterations_of(point) for point in group[:-1])
    solver = settings.solver.model_copy(update={"snapshots": kept})
    merge = longest.merge.model_copy(update={"settings": settings.model_copy(update={"solver": solver})})
    return longest.model_copy(update={"merge": merge})


def hand_out(folder: SweepFolder, group: Group, made_by: PointFolder) -> None:
    """Move the iterates that lie in the longest solve's folder to their points; does nothing where that was done."""
    home = made_by.merged / SNAPSHOTS
    for point in group:
        source, target = home / str(iterations_of(point)), folder.point(point.digest)
        if source.is_dir() and not target.merged.exists():
            target.path.mkdir(parents=True, exist_ok=True)
            target.take_run_info(made_by)
            source.rename(target.merged)
    if home.is_dir() and not any(home.iterdir()):
        home.rmdir()


def _keeps_iterates(recipe: Recipe) -> bool:
    settings = recipe.merge.settings
    return (
        isinstance(settings, QuadraticSettings)
        and settings.solver.name in ("cg", "pcg")
        and settings.radius is None
        and not settings.solver.precision.endswith("_refined")
        and not settings.solver.snapshots
    )


def _without_iterations(recipe: Recipe) -> object:
    written = {key: value for key, value in recipe.as_written().items() if key != "output"}
    solver = {key: value for key, value in written["merge"]["solver"].items() if key != "max_iterations"}
    return {**written, "merge": {**written["merge"], "solver": solver}}
