"""The work of one point: metadata, merge, scores, and the record that it is finished; a failure is a record too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mats.errors import MatsError, OutputExists
from mats.files import exclusive
from mats.progress import Progress
from mats.recipes.schema import Recipe
from mats.sweeps.folder import PointFolder, SweepFolder
from mats.sweeps.loading import LoadedSweep
from mats.sweeps.measuring import Measurements
from mats.sweeps.points import Point, recipe_signature
from mats.sweeps.scoring import score_point
from mats.sweeps.selection import select_points, value_of


class Worker:
    """Works on points of one sweep, one after another."""

    def __init__(self, loaded: LoadedSweep, progress: Progress) -> None:
        self.loaded, self.progress = loaded, progress
        self.folder = SweepFolder(loaded.output)
        self._measurements = Measurements()
        self._finished: list[tuple[Point, float | None]] = []

    def work(self, point: Point) -> None:
        """Finish a point, or record why it failed; one that is finished, or in another run's hands, is left alone."""
        place = self.folder.point(point.digest)
        try:
            with exclusive(place.lock):
                self._work(point, place)
        except OutputExists:  # of the lock alone: what the point itself meets is recorded
            self.progress.note(f"point {point.number} ({point.label}): another run works on it")

    def report(self, point: Point, split: str) -> None:
        """Score a point on one more split; its weights are made again where they were not kept.

        Raises:
            MatsError: what merging or scoring meets.
        """
        place = self.folder.point(point.digest)
        with exclusive(place.lock):
            self._prepare(point, place)
            self._merge_and_score(point, place, (split,))

    def prune(self, chosen: Sequence[Point], points: Sequence[Point]) -> None:
        """Remove the weights of all `points` but the chosen ones."""
        kept = {point.digest for point in chosen}
        for point in points:
            if point.digest not in kept:
                self.folder.point(point.digest).remove_weights()

    def _work(self, point: Point, place: PointFolder) -> None:
        name = f"point {point.number} of {len(self.loaded.points)} ({point.label})"
        try:
            self._prepare(point, place)
            if not self._is_finished(place):
                self.progress.note(name)
                self._merge_and_score(point, place, self.loaded.point_splits)
                run = place.run_info()
                place.write_outcome(
                    {
                        "state": "done",
                        "seconds": run.get("seconds"),
                        "peak_memory_bytes": run.get("peak_memory_bytes"),
                    }
                )
        except Exception as error:
            line = one_line(error)
            self.progress.note(f"{name} failed: {line}")
            place.write_outcome({"state": "failed", "error": line, "kind": type(error).__name__})
            if self.loaded.sweep.keep != "all":
                place.remove_weights()
            return
        self._finished.append((point, self.value(point)))
        if self.loaded.sweep.keep != "all":
            best = select_points(self._finished, self.loaded.sweep.select)
            self.prune(best, [finished for finished, _ in self._finished])

    def _prepare(self, point: Point, place: PointFolder) -> None:
        """Say what the point is; results made from inputs that have changed since are removed."""
        described = {
            "axes": dict(point.columns),
            "digest": point.digest,
            "recipe": point.recipe.as_written(),
            "inputs": recipe_signature(point.recipe),
        }
        found = place.described()
        if found is not None and found["inputs"] != described["inputs"]:
            self.progress.note(f"point {point.number} ({point.label}): its models have changed; it is made anew")
            place.clear()
            found = None
        if found is None:
            place.write_point(described)

    def _is_finished(self, place: PointFolder) -> bool:
        scored = all(place.scores(split) is not None for split in self.loaded.point_splits)
        kept = self.loaded.sweep.keep != "all" or place.merged.is_dir()
        return place.state() == "done" and scored and kept

    def _merge_and_score(self, point: Point, place: PointFolder, splits: Sequence[str]) -> None:
        wanted = [split for split in splits if place.scores(split) is None]
        if (wanted or self.loaded.sweep.keep == "all") and not place.merged.is_dir():
            self._measurements.ensure(point.recipe, self.progress)
            merge_into(point.recipe, place.merged, self.progress)
            place.keep_report()
        for split in wanted:
            scores = score_point(point.recipe, place.merged, split, self.folder, self.progress)
            place.write_scores(split, scores)

    def value(self, point: Point) -> float | None:
        """What a point is compared by."""
        select = self.loaded.sweep.select
        return value_of(self.folder.point(point.digest).scores(select.split), select.metric)


def merge_into(recipe: Recipe, output: Path, progress: Progress) -> None:
    """Merge into `output`, counting the process's peak memory from now on.

    Raises:
        MatsError: as `mats.engine.merge`.
    """
    from mats.engine import merge
    from mats.engine.memory import restart_peak_memory
    from mats.recipes.requests import merge_request

    output.parent.mkdir(parents=True, exist_ok=True)
    restart_peak_memory()
    merge(merge_request(recipe, output), progress)


def one_line(error: Exception) -> str:
    """An error as the one line that a table holds."""
    text = "; ".join(str(error).strip().splitlines()) or "no message"
    return text if isinstance(error, MatsError) else f"unexpected {type(error).__name__}: {text}"
