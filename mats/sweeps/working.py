"""The work of a point: metadata, merge, scores, and the record that it is finished; a failure is a record too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from mats.errors import MatsError, OutputExists
from mats.files import exclusive
from mats.progress import Progress, Silent
from mats.recipes.schema import Recipe
from mats.sweeps.folder import PointFolder, SweepFolder
from mats.sweeps.loading import LoadedSweep
from mats.sweeps.measuring import Measurements
from mats.sweeps.points import Point, recipe_signature
from mats.sweeps.scoring import score_point
from mats.sweeps.selection import select_points, value_of
from mats.sweeps.snapshots import Group, hand_out, recipe_for_all


class Worker:
    """Works on the points of one sweep, a group at a time: points that one merge makes."""

    def __init__(self, loaded: LoadedSweep, progress: Progress) -> None:
        self.loaded, self.progress = loaded, progress
        self.folder = SweepFolder(loaded.output)
        self._measurements = Measurements()
        self._finished: list[tuple[Point, float | None]] = []

    def work(self, group: Group) -> None:
        """Finish the points of a group, or record why they failed.

        Those that are finished are left alone, and so is a group in another run's hands.
        """
        with ExitStack() as held:
            try:
                for point in group:
                    held.enter_context(exclusive(self.folder.point(point.digest).lock))
            except OutputExists:
                self.progress.note(f"{self._name(group[0])}: another run works on it")
                return
            self._work(group)

    def report(self, point: Point, split: str) -> None:
        """Score a point on one more split; its weights are made again where they were not kept.

        Raises:
            MatsError: what merging or scoring meets.
        """
        place = self._place(point)
        with exclusive(place.lock):
            if place.scores(split) is None:
                if not place.merged.is_dir():
                    self._merge((point,))
                self._score(point, split)

    def prune(self, chosen: Sequence[Point], points: Sequence[Point]) -> None:
        """Remove the weights of all `points` but the chosen ones."""
        kept = {point.digest for point in chosen}
        for point in points:
            if point.digest not in kept:
                self.folder.point(point.digest).remove_weights()

    def value(self, point: Point) -> float | None:
        """What a point is compared by."""
        select = self.loaded.sweep.select
        return value_of(self.folder.point(point.digest).scores(select.split), select.metric)

    def _work(self, group: Group) -> None:
        for point in group:
            self._describe(point)
        for point in group:  # an earlier run may have been killed between a merge and its handing out
            hand_out(self.folder, group, self._place(point))
        left = [point for point in group if not self._is_finished(point)]
        unmerged = tuple(point for point in left if self._lacks_weights(point))
        failed = () if not unmerged or self._attempt(unmerged, partial(self._merge, unmerged)) else unmerged
        for point in group:
            if point not in failed and (point not in left or self._attempt((point,), partial(self._finish, point))):
                self._count(point)

    def _describe(self, point: Point) -> None:
        """Say what the point is; results made from inputs that have changed since are removed."""
        place = self._place(point)
        recipe = point.recipe.model_copy(update={"output": str(place.merged)})
        described = {
            "axes": dict(point.columns),
            "digest": point.digest,
            "recipe": recipe.as_written(),
            "inputs": recipe_signature(point.recipe),
        }
        found = place.described()
        if found is not None and found["inputs"] != described["inputs"]:
            self.progress.note(f"{self._name(point)}: its models have changed; it is made anew")
            place.clear()
            found = None
        if found is None:
            place.write_point(described)

    def _is_finished(self, point: Point) -> bool:
        place = self._place(point)
        return place.state() == "done" and not self._unscored(place) and not self._lacks_weights(point)

    def _lacks_weights(self, point: Point) -> bool:
        """Whether weights are needed that are not there."""
        place = self._place(point)
        needed = self.loaded.sweep.keep == "all" or bool(self._unscored(place))
        return needed and not place.merged.is_dir()

    def _unscored(self, place: PointFolder) -> list[str]:
        return [split for split in self.loaded.point_splits if place.scores(split) is None]

    def _merge(self, group: Group) -> None:
        """One merge for all points of the group."""
        longest = self._place(group[-1])
        self.progress.note(f"merging {', '.join(self._name(point) for point in group)}")
        self._measurements.ensure(group[-1].recipe, self.progress)
        merge_into(recipe_for_all(group), longest.merged, self.progress)
        hand_out(self.folder, group, longest)

    def _finish(self, point: Point) -> None:
        """Keep what explains the merge, score it, and record that the point is done."""
        place = self._place(point)
        place.keep_report()
        for split in self._unscored(place):
            self._score(point, split)
        run = place.run_info()
        kept = {key: run.get(key) for key in ("seconds", "peak_memory_bytes", "made_by")}
        place.write_outcome({"state": "done", **kept})

    def _score(self, point: Point, split: str) -> None:
        place = self._place(point)
        place.write_scores(split, score_point(point.recipe, place.merged, split, self.folder, self.progress))

    def _attempt(self, points: Sequence[Point], action: Callable[[], None]) -> bool:
        """Whether `action` went through; if not, all these points have failed."""
        try:
            action()
        except Exception as error:  # whatever it is, the other points go on; Ctrl-C is none of these
            for point in points:
                place = self._place(point)
                place.write_outcome({"state": "failed", "error": one_line(error), "kind": type(error).__name__})
                self.progress.note(f"{self._name(point)} failed: {one_line(error)}")
                if self.loaded.sweep.keep != "all":
                    place.remove_weights()
            return False
        return True

    def _count(self, point: Point) -> None:
        """One more point is done: weights of points that are no longer the best make room."""
        self._finished.append((point, self.value(point)))
        if self.loaded.sweep.keep != "all":
            best = select_points(self._finished, self.loaded.sweep.select)
            self.prune(best, [finished for finished, _ in self._finished])

    def _place(self, point: Point) -> PointFolder:
        return self.folder.point(point.digest)

    def _name(self, point: Point) -> str:
        return f"point {point.number} of {len(self.loaded.points)} ({point.label})"


class BarsAlone(Silent):
    """Progress without notes: what a merge says about its plan is in its report, and a sweep has many merges."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, description: str, total: int | None) -> None:
        """Open a stage."""
        self._progress.start(description, total)

    def advance(self, steps: int = 1) -> None:
        """Move it on."""
        self._progress.advance(steps)


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
    merge(merge_request(recipe, output), BarsAlone(progress))


def one_line(error: Exception) -> str:
    """An error as the one line that a table holds."""
    text = "; ".join(str(error).strip().splitlines()) or "no message"
    return text if isinstance(error, MatsError) else f"unexpected {type(error).__name__}: {text}"
