"""Groups: what is stacked, in which order, what a budget prevents, and what is refused, with the right number."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import Family

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, System, group_plan, merge, plan_merge
from mats.engine.group_plan import application_work, groups_peak, in_order, overlapped, plan_groups
from mats.engine.memory import mapped_system_bytes, system_bytes
from mats.engine.plan_parts import Group
from mats.errors import OutOfSpace
from mats.methods import MatsSettings

pytestmark = pytest.mark.usefixtures("light_report")


@pytest.fixture
def wanted(bert: Family, tmp_path: Path) -> MergeRequest:
    return MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "out", base=str(bert.base), device="cpu")


def square(name: str, size: int = 16) -> System:
    return System(name, None, "out_in", (size, size), "block", (), MatsSettings())


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_batches_end_where_they_gain_nothing(wanted: MergeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = [square(str(number)) for number in range(10)]
    (whole,) = plan_groups(systems, wanted, 3)
    assert len(whole.systems) == 10
    monkeypatch.setitem(group_plan.FULL_BATCH, "cpu", 4 * application_work(systems[0], 3))
    parts = plan_groups(systems, wanted, 3)
    assert sorted(len(group.systems) for group in parts) == [3, 3, 4]
    assert sorted(name for group in parts for name in group.names) == sorted(whole.names)
    assert sum(group.work for group in parts) == pytest.approx(whole.work)


def test_what_is_read_fastest_comes_first_and_then_the_most_work() -> None:
    made = [
        Group((square(name),), 100, loaded, 1, work)
        for name, loaded, work in (("a", 5, 1.0), ("b", 2, 7.0), ("c", 9, 9.0), ("d", 3, 8.0))
    ]
    assert [group.names[0] for group in in_order(made)] == ["b", "c", "d", "a"]
    assert in_order([]) == []


@pytest.mark.parametrize(("budget", "overlaps"), [(115, [False, False, False]), (116, [False, True, False]),
                                                  (126, [True, True, False]), (127, [True, True, True])])  # fmt: skip
def test_neighbours_are_held_where_the_budget_allows(wanted: MergeRequest, budget: int, overlaps: list[bool]) -> None:
    sizes = [(100, 7, 3), (87, 26, 2), (125, 26, 2)]
    made = [Group((square(str(n)),), solved, loaded, value) for n, (solved, loaded, value) in enumerate(sizes)]
    told = overlapped(made, replace(wanted, memory_budget=budget))
    assert [group.overlaps for group in told] == overlaps
    assert groups_peak(told) <= max(budget, max(size for size, _, _ in sizes))


def test_a_tight_budget_is_told_with_the_one_that_would_do(wanted: MergeRequest) -> None:
    biggest = max(group.bytes // len(group.systems) for group in plan_merge(wanted).groups)
    tight = plan_merge(replace(wanted, memory_budget=biggest))
    (note,) = tight.memory_notes
    assert not any(group.on_disk for group in tight.groups)
    enough = int(re.search(r"budget of (\d+) bytes", note).group(1))  # type: ignore[union-attr]
    assert plan_merge(replace(wanted, memory_budget=max(enough, biggest))).memory_notes == ()
    assert plan_merge(wanted).memory_notes == ()


def test_what_no_budget_holds_is_refused_with_the_bytes_that_would_be_right(wanted: MergeRequest) -> None:
    with pytest.raises(OutOfSpace, match=r"needs \d+ bytes to be solved with its factors on disk") as refusal:
        plan_merge(replace(wanted, memory_budget=1000))
    budget = int(re.search(r"needs (\d+) bytes", str(refusal.value)).group(1))  # type: ignore[union-attr]
    plan = plan_merge(replace(wanted, memory_budget=budget))
    assert any(group.on_disk for group in plan.groups)
    assert plan.peak_bytes <= budget
    with pytest.raises(OutOfSpace, match="factors on disk"):
        plan_merge(replace(wanted, memory_budget=budget - 1))


@pytest.mark.parametrize("settings", [{}, {"damping": 0.1}, {"anchor": 0.1, "shrinkage": "ledoit_wolf"}])
def test_factors_on_disk_give_what_factors_in_memory_give(wanted: MergeRequest, settings: dict[str, object]) -> None:
    """Every rule, with the largest budget at which the widest layer's factors stay on disk."""
    wanted = replace(wanted, method=MatsSettings.model_validate({"solver": {"tolerance": 1e-6}, **settings}))
    held = merge(wanted).path
    each = {group: group.bytes // len(group.systems) for group in plan_merge(wanted).groups}
    budget = max(each.values()) - 1
    plan = plan_merge(replace(wanted, memory_budget=budget))
    on_disk = [group for group in plan.groups if group.on_disk]
    assert on_disk
    assert plan.peak_bytes <= budget
    assert f"{on_disk[0].systems[0].weight} " in plan.memory_notes[0]
    other = merge(replace(wanted, memory_budget=budget, output=wanted.output.with_name("disk"))).path
    one, two = tensors(held), tensors(other)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


def test_factors_on_disk_cost_one_model_at_a_time() -> None:
    shape, factors = (64, 64), [64 * 64] * 2
    more = [mapped_system_bytes(shape, models, factors) for models in (2, 12)]
    assert more[1] - more[0] == 10 * 4 * 64 * 64  # the targets alone
    rotated = 12 * 4 + 3 * 8 - 5 * 8  # bytes of a factor, by which rotated copies for 12 models exceed a decomposition
    grown = 10 * 4 * (2 * 64 * 64 + sum(factors)) + rotated * sum(factors)
    assert system_bytes(shape, 12, factors) - system_bytes(shape, 2, factors) == grown
