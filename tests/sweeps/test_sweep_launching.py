"""Jobs by submitit, played by a stand-in that runs them at once: shards, options, lost jobs, and doing without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mats.errors import RequestError, WorkFailed
from mats.progress import Silent
from mats.sweeps import launching, load_sweep

Write = Callable[..., Path]


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the stand-in was asked for; `lose` names the job that raises."""
    asked = SimpleNamespace(options={}, cluster=None, shards=[], lose=None)

    class Executor:
        def __init__(self, folder: Path, cluster: str | None = None) -> None:
            asked.cluster = cluster

        def update_parameters(self, **options: Any) -> None:
            if "nonsense" in options:
                raise NameError("Unknown argument: nonsense")
            asked.options = options

        def map_array(self, action: Callable[..., Any], *columns: Any) -> list[Any]:
            asked.shards = list(zip(*columns, strict=True))
            return [
                SimpleNamespace(job_id=str(row[2]), result=lambda row=row: self._run(action, row))
                for row in asked.shards
            ]

        def _run(self, action: Callable[..., Any], row: Any) -> Any:
            if asked.lose == row[2]:
                raise RuntimeError("traceback\nkilled by the cluster")
            return action(*row)

    module = ModuleType("submitit")
    module.AutoExecutor = Executor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", module)
    return asked


def test_every_shard_is_a_job_and_all_are_collected(write_sweep: Write, submitit: SimpleNamespace) -> None:
    path = write_sweep(axes={"merge.scale": [0.3, 0.5, 0.7]}, launcher={"cluster": "local", "timeout_min": 5})
    texts = ["axes.merge.scale=[0.3, 0.5]"]
    outcome = launching.launch_sweep(load_sweep(path, texts), "submitit", 2, texts, Silent())
    assert (outcome.done, outcome.missing, len(outcome.selected)) == (2, 0, 1)
    assert (submitit.cluster, submitit.options) == ("local", {"timeout_min": 5})
    assert submitit.shards == [(str(path), texts, 1, 2), (str(path), texts, 2, 2)]
    assert (outcome.output / "report.html").is_file()


def test_a_lost_job_is_told_after_collecting_the_others(write_sweep: Write, submitit: SimpleNamespace) -> None:
    loaded = load_sweep(write_sweep(axes={"merge.scale": [0.3, 0.5]}))
    submitit.lose = 2
    with pytest.raises(WorkFailed, match=r"job 2: killed by the cluster\nlogs are in .*jobs; the same command goes on"):
        launching.launch_sweep(loaded, "submitit", 2, [], Silent())
    assert (loaded.output / "points.csv").read_text().count(",done,") == 1


def test_what_submitit_refuses_is_one_line(write_sweep: Write, submitit: SimpleNamespace) -> None:
    loaded = load_sweep(write_sweep(axes={"merge.scale": [0.3]}, launcher={"nonsense": 1}))
    with pytest.raises(RequestError, match=r"launcher: submitit refuses .*: Unknown argument: nonsense"):
        launching.launch_sweep(loaded, "submitit", 1, [], Silent())


def test_without_submitit_the_way_to_get_it_is_told(write_sweep: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    loaded = load_sweep(write_sweep(axes={"merge.scale": [0.3]}))
    with pytest.raises(RequestError, match=r"not installed; pip install 'mats\[slurm\]' would be right"):
        launching.launch_sweep(loaded, "submitit", 1, [], Silent())


def test_the_peak_of_memory_can_be_counted_anew() -> None:
    import numpy as np

    from mats.engine.memory import peak_memory, restart_peak_memory

    if not restart_peak_memory():
        pytest.skip("this system cannot restart its count of peak memory")
    large = np.ones(40_000_000)
    high = peak_memory()
    del large
    restart_peak_memory()
    assert peak_memory() < high - 200e6
