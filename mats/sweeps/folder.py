"""What a sweep leaves on disk: a folder per point, found by its digest, and scores that points share.

points/<digest>/point.json        the point's axes and recipe
                result.json       written last: done or failed, seconds, memory, what the inputs looked like
                scores-<split>.json, report.json, report.html, run.json, recipe.yaml
                merged/           the weights, as long as `keep` says so
shared/<digest>.json              scores of a single model, used by every point
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mats.errors import WorkFailed
from mats.files import write_bytes_atomically, write_json_atomically

State = Literal["done", "failed", "missing"]
MERGE_FILES = ("report.json", "report.html")
"""What is kept of a merge when its weights are removed."""


@dataclass(frozen=True)
class PointFolder:
    """The folder of one point."""

    path: Path

    @property
    def merged(self) -> Path:
        """The merged model."""
        return self.path / "merged"

    @property
    def lock(self) -> Path:
        """Held while a process works on the point."""
        return self.path.with_name(f".{self.path.name}.lock")

    def outcome(self) -> dict[str, Any] | None:
        """`result.json`; None while there is none."""
        return read_json(self.path / "result.json")

    def state(self) -> State:
        """Whether the point was finished, and how."""
        outcome = self.outcome()
        return "missing" if outcome is None else "done" if outcome["state"] == "done" else "failed"

    def write_outcome(self, value: Mapping[str, Any]) -> None:
        """Write `result.json`, which makes the point finished."""
        self._write("result.json", value)

    def scores(self, split: str) -> dict[str, Any] | None:
        """The scores on a split; None where it was not scored."""
        return read_json(self.path / f"scores-{split}.json")

    def write_scores(self, split: str, value: Mapping[str, Any]) -> None:
        """Keep the scores on a split."""
        self._write(f"scores-{split}.json", value)

    def write_point(self, value: Mapping[str, Any]) -> None:
        """Say what the point is; its recipe is also a file of its own, for `mats merge`."""
        self._write("point.json", value)
        text = yaml.safe_dump(value["recipe"], sort_keys=False, allow_unicode=True)
        write_bytes_atomically(self.path / "recipe.yaml", text.encode())

    def described(self) -> dict[str, Any] | None:
        """`point.json`; None for a point that nobody began."""
        return read_json(self.path / "point.json")

    def keep_report(self) -> None:
        """Copy what explains the merge out of the folder of its weights."""
        for name in MERGE_FILES:
            if (self.merged / name).is_file():
                write_bytes_atomically(self.path / name, (self.merged / name).read_bytes())
        self.take_run_info(self)

    def take_run_info(self, made_by: PointFolder) -> None:
        """Note seconds and memory of the merge that made this point: its own, or that of a longer solve."""
        run = read_json(made_by.merged / "run.json")
        if run is not None:
            self._write("run.json", {**run, "made_by": made_by.path.name})

    def report(self) -> dict[str, Any] | None:
        """The merge's `report.json`."""
        return read_json(self.path / "report.json")

    def run_info(self) -> dict[str, Any]:
        """The merge's `run.json`."""
        return read_json(self.path / "run.json") or {}

    def remove_weights(self) -> None:
        """Remove the merged model; another process may be removing it too."""
        shutil.rmtree(self.merged, ignore_errors=True)

    def clear(self) -> None:
        """Remove everything, for a point that is to be made anew."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.path / name, value)


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep."""

    root: Path

    def point(self, digest: str) -> PointFolder:
        """The folder of the point with this digest."""
        return PointFolder(self.root / "points" / digest)

    def shared_scores(self, digest: str) -> Path:
        """The file of scores that points share."""
        return self.root / "shared" / f"{digest}.json"

    @property
    def settings(self) -> Path:
        """The sweep as it was run, overrides included."""
        return self.root / "sweep.json"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing.

    Raises:
        WorkFailed: the file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WorkFailed(f"{path}: not JSON ({error}); remove it, and the same command makes it anew") from error
    if not isinstance(value, dict):
        raise WorkFailed(f"{path}: holds no object; remove it, and the same command makes it anew")
    return value
