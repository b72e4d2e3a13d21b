"""The whole track, tiny: from files to the table, and a second run that does nothing again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import text_models
from extent import TINY
from text_study import TextStudy
from workspace import Workspace

from mats.progress import Silent


@pytest.mark.slow
def test_the_track_runs_from_files_to_results_and_keeps_all_it_did(
    encoder_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_models, "pretrained_folder", lambda: encoder_folder)
    extent = replace(
        TINY, shape=replace(TINY.shape, pieces=80), rows=tuple(replace(row, choice=None) for row in TINY.rows)
    )
    study = TextStudy(tmp_path / "home", data_folder, "full", (0,), extent.tasks, extent.sizes, extent.rows, extent)
    path = study.report(tmp_path / "results.json", Silent(), joint=False)
    first = path.read_text()
    results = json.loads(first)
    assert [entry["row"] for entry in results["rows"]] == [row.name for row in extent.rows]
    assert results["examples"] == dict.fromkeys((task.name for task in extent.tasks), extent.sizes.test)
    monkeypatch.setattr(Workspace, "merge", None)  # a second run must not come this far
    assert study.report(path, Silent(), joint=False).read_text() == first
