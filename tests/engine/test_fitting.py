"""Memory that runs out in the middle: smaller batches, the same answer, nothing lost, and the report says so."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_families import Family

from mats.checkpoints import open_checkpoint
from mats.engine import Group, MergeRequest, System, merge, merging, plan_merge
from mats.engine.fitting import Solved, solve_fitting
from mats.engine.solving import solve_groups
from mats.errors import OutOfSpace, is_out_of_memory
from mats.methods import MatsSettings
from mats.solvers import Solution, solve_quadratic

pytestmark = pytest.mark.usefixtures("light_report")


class SmallMemory:
    """Solves no more than `most` systems at once."""

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error = most, error
        self.batches: list[int] = []

    def __call__(self, quadratic: Any, targets: torch.Tensor, start: torch.Tensor, settings: Any) -> Solution:
        if len(start) > self.most:
            raise self.error
        self.batches.append(len(start))
        return solve_quadratic(quadratic, targets, start, settings)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_smaller_batches_give_the_same_answer(
    bert: Family, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "whole", base=str(bert.base), device="cpu")
    whole = tensors(merge(wanted).path)
    small = SmallMemory(4, error)
    monkeypatch.setattr(merging, "solve_groups", partial(solve_groups, solver=small))
    result = merge(MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "halves", str(bert.base), device="cpu"))
    assert max(small.batches) <= 4
    for name, tensor in tensors(result.path).items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-6)
    entries = {entry["name"]: entry.get("made_do") for entry in result.report["layers"]}
    attention = entries["bert.encoder.layer.0.attention.self.query.weight"]  # 9 systems: 4 and 2 + 3
    assert attention["planned"] == 9
    assert attention["batch"] <= 4
    assert sum(made_do is not None for made_do in entries.values()) >= 9
    notes = [note for note in result.report["notes"] if note.startswith("memory ran out")]
    assert any("planned in batches of 9 were solved 4 at a time on cpu" in note for note in notes)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    bert: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "out", base=str(bert.base), device="cpu")
    failing = SmallMemory(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(merging, "solve_groups", partial(solve_groups, solver=failing))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        merge(wanted)
    assert not is_out_of_memory(OutOfSpace("the disk is full"))


def test_finished_parts_are_kept_when_a_layer_does_not_fit_at_all(
    bert: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and the next run solves what is left."""
    wanted = MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "out", base=str(bert.base), device="cpu")

    class FullAfter(SmallMemory):
        def __call__(self, *args: Any) -> Solution:
            self.most = 100 if len(self.batches) < 3 else 0
            return super().__call__(*args)

    monkeypatch.setattr(merging, "solve_groups", partial(solve_groups, solver=FullAfter(0, MemoryError("no more"))))
    with pytest.raises(
        OutOfSpace, match=r"out of memory, solved alone with its factors on disk \(no more\); about \d+"
    ):
        merge(wanted)
    assert not wanted.output.exists()
    left = SmallMemory(100, MemoryError())
    monkeypatch.setattr(merging, "solve_groups", partial(solve_groups, solver=left))
    resumed = merge(wanted)
    first = SmallMemory(100, MemoryError())
    monkeypatch.setattr(merging, "solve_groups", partial(solve_groups, solver=first))
    merge(MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "again", str(bert.base), device="cpu"))
    assert len(left.batches) == len(first.batches) - 3
    assert resumed.path.exists()


def test_down_to_one_layer_then_the_cpu_then_the_disk() -> None:
    """The order of what is tried, on a device that is never asked for anything."""
    group = Group(tuple(System(n, None, "out_in", (2, 2), "block", (), MatsSettings()) for n in "abc"), 300, 30, 3)
    tried: list[tuple[str, str, bool]] = []

    def load(part: Group, device: torch.device) -> Any:
        tried.append(("".join(part.names), device.type, part.on_disk))
        if device.type != "cpu" and "b" in part.names:
            raise torch.OutOfMemoryError("full")
        if part.names == ("b",) and not part.on_disk:
            raise MemoryError
        return None

    solution = Solution(torch.zeros(1), {}, ())
    device = torch.device("meta")
    parts: Iterator[Solved] = solve_fitting(group, load, lambda problem, part: solution, device)
    first = next(parts)
    assert first.group.names == ("a",)
    assert tried == [("abc", "meta", False), ("a", "meta", False)]
    assert first.group.bytes == 100
    rest = list(parts)
    assert [part.group.names[0] for part in rest] == ["b", "c"]
    assert tried[2:] == [
        ("bc", "meta", False), ("b", "meta", False), ("b", "cpu", False), ("b", "cpu", True), ("c", "meta", False)
    ]  # fmt: skip
    assert rest[0].made_do == {"batch": 1, "device": "cpu", "on_disk": True}
    assert rest[1].made_do == {"batch": 1, "device": "meta", "on_disk": False}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_what_the_cpu_gives_whatever_fits(
    bert: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for device, most in (("cpu", 100), ("cuda", 100), ("cuda", 2)):
        small = SmallMemory(most, torch.OutOfMemoryError("full"))
        monkeypatch.setattr(merging, "solve_groups", partial(solve_groups, solver=small))
        output = tmp_path / f"{device}{most}"
        paths.append(merge(MergeRequest(bert.inputs(), MatsSettings(), output, str(bert.base), device=device)).path)
    one, *others = map(tensors, paths)
    for other in others:
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-4)


class Told:
    """Keeps what progress it was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.steps: list[int] = []

    def start(self, description: str, total: int | None) -> None:
        self.stages.append((description, total))
        self.steps = []

    def advance(self, steps: int = 1) -> None:
        self.steps.append(steps)

    def note(self, message: str) -> None:
        pass


def test_progress_goes_by_work(bert: Family, tmp_path: Path) -> None:
    wanted = MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "out", base=str(bert.base), device="cpu")
    told = Told()
    merge(wanted, told)
    work = [group.work for group in plan_merge(wanted).groups]
    assert told.stages[-1] == ("solving 27 layers (percent)", 100)
    assert told.steps[0] == 0  # of an earlier run
    assert sum(told.steps) == 100
    steps = [sum(told.steps[: turn + 2]) for turn in range(len(work))]
    assert steps == [round(100 * sum(work[: turn + 1]) / sum(work)) for turn in range(len(work))]
