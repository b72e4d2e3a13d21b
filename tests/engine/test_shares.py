"""A merge on two processes is the merge on one, byte for byte; killed, any number of processes takes it up."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_families import Family
from forked_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from light_reports import write_light_report

from mats.checkpoints import CheckpointWriter, TensorInfo
from mats.engine import Group, MergeRequest, Rule, Streamed, merge, merging, plan_merge
from mats.engine.devices import device_of_process
from mats.engine.inputs import MergeInputs
from mats.engine.processes import Processes
from mats.engine.shares import Share, _dealt, share_of
from mats.errors import MatsError, NonFiniteWeights, RequestError, WorkFailed
from mats.methods import AverageSettings, MatsSettings, SolverChoice, TiesSettings

CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rank(number: int, count: int) -> Processes:
    made = Processes()
    made.rank, made.count = number, count
    return made


@given(work=st.lists(st.floats(0, 1e12), max_size=30), hands=st.integers(1, 6))
def test_everything_is_dealt_once_and_nobody_has_far_more(work: list[float], hands: int) -> None:
    dealt = _dealt(work, hands)
    assert sorted(place for hand in dealt for place in hand) == list(range(len(work)))
    loads = [sum(work[place] for place in hand) for hand in dealt]
    assert max(loads) - min(loads) <= max(work, default=0) * (1 + 1e-9)


def wanted(bert: Family, output: Path, **changes: Any) -> MergeRequest:
    """Groups of one or two layers; a start that looks at the whole model; norms by TIES, which must stay together."""
    method = MatsSettings(init=TiesSettings(density=0.3), solver=SolverChoice(name="pcg", snapshots=(2,)))
    rules = (Rule("*LayerNorm*", TiesSettings(density=0.3, zero_votes="majority")), Rule("*pos*", AverageSettings()))
    given = {"base": str(bert.base), "rules": rules, "device": "cpu", "memory_budget": 400_000, **changes}
    return MergeRequest(bert.inputs(), method, output, **given)


def test_shares_are_a_partition_and_what_depends_on_each_other_stays_together(bert: Family, tmp_path: Path) -> None:
    request = wanted(bert, tmp_path / "out")
    plan = plan_merge(request)
    with MergeInputs(request) as inputs:
        (alone,) = (share_of(inputs, plan.streamed, plan.groups, rank(0, 1)),)
        shares: list[Share] = [share_of(inputs, plan.streamed, plan.groups, rank(n, 3)) for n in range(3)]
    assert alone == Share(plan.streamed, plan.groups)

    def names(part: Group | Streamed) -> str:
        return part.name if isinstance(part, Streamed) else part.names[0]

    for kind in ("streamed", "groups"):
        dealt = [names(part) for share in shares for part in getattr(share, kind)]
        assert sorted(dealt) == sorted(map(names, getattr(plan, kind)))
    norms = [any(part.rule == "ties" for part in share.streamed) for share in shares]
    assert sum(norms) == 1
    assert sum(bool(share.groups) for share in shares) == 3


def merged(request: MergeRequest, die: int | None = None) -> Any:
    """In a rank, with a light report; with `die`, rank 1 is killed after as many tensors."""
    merging.write_report = write_light_report
    if die is not None and os.environ["RANK"] == "1":
        original, written = CheckpointWriter.write, 0

        def write(self: CheckpointWriter, *args: Any, **kwargs: Any) -> None:
            nonlocal written
            original(self, *args, **kwargs)
            written += 1
            if written == die:
                os.kill(os.getpid(), signal.SIGKILL)

        CheckpointWriter.write = write  # type: ignore[method-assign]
    result = merge(request)
    return result.path, result.report["layers"]


def test_two_processes_give_the_bytes_of_one_also_after_a_kill(bert: Family, tmp_path: Path) -> None:
    single = wanted(bert, tmp_path / "one" / "out")
    ((_, layers_alone),) = run_ranks(partial(merged, single), tmp_path / "rank-alone", count=1, env=CPU)
    request = wanted(bert, tmp_path / "two" / "out")
    killed = run_ranks(partial(merged, request, 5), tmp_path / "ranks-killed", env=CPU)
    assert killed[1] == -signal.SIGKILL
    assert isinstance(killed[0], WorkFailed)
    assert not request.output.exists()
    partial_work = tmp_path / "two" / ".out.partial"
    assert (partial_work / "journal-1").exists()
    finished = run_ranks(partial(merged, request), tmp_path / "ranks", count=3, env=CPU)  # one more than before
    assert [path for path, _ in finished] == [request.output] * 3
    assert all(layers == layers_alone for _, layers in finished)
    one, two = contents(single.output), contents(request.output)
    two["report.json"] = two["report.json"].replace(b"/two/", b"/one/")
    two["recipe.yaml"] = two["recipe.yaml"].replace(b"/two/", b"/one/")
    assert one.keys() == two.keys()
    assert "snapshots/2/model.safetensors" in one
    assert [name for name in one if one[name] != two[name] and not name.startswith("snapshots/2/re")] == []
    assert not partial_work.exists()


def failing(request: MergeRequest) -> Any:
    """In a rank: the tensors that rank 1 writes are refused."""
    if os.environ["RANK"] == "1":

        def refuse(self: CheckpointWriter, name: str, *args: Any, **kwargs: Any) -> None:
            raise NonFiniteWeights(f"{name}: not finite")

        CheckpointWriter.write = refuse  # type: ignore[method-assign]
    return merge(request).path


def test_one_that_fails_stops_the_other_with_its_line(bert: Family, tmp_path: Path) -> None:
    request = wanted(bert, tmp_path / "out")
    first, second = run_ranks(partial(failing, request), tmp_path / "ranks", env=CPU)
    assert isinstance(second, NonFiniteWeights)
    assert isinstance(first, MatsError)
    assert "process 1 of 2 stopped" in str(first)
    assert "not finite" in str(first)
    assert not request.output.exists()


def test_journals_of_other_processes_are_taken_over_where_their_bytes_are_right(tmp_path: Path) -> None:
    infos = [TensorInfo(name, torch.float32, (3,)) for name in "abcd"]

    def open_part(part: int) -> CheckpointWriter:
        return CheckpointWriter(tmp_path / "out", infos, identity="x", part=part)

    with open_part(0) as first, open_part(1) as second, open_part(2) as third:
        first.write("a", torch.ones(3), note=1)
        second.adopt(first.held())
        assert set(second.done) == {"a"}
        second.write("b", 2 * torch.ones(3), note={"of": "b"})
        third.write("c", 3 * torch.ones(3))
    damaged = tmp_path / ".out.partial" / "content" / "model.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(torch.full((3,), 3.0).numpy().tobytes(), bytes(12)))
    with open_part(0) as again:
        assert dict(again.held()) == {"a": 1, "b": {"of": "b"}}
        assert [path.name for path in damaged.parent.parent.glob("journal*")] == ["journal"]
        with open_part(1) as second:
            second.write("c", 3 * torch.ones(3), note="c")
        again.write("d", 4 * torch.ones(3))
        with pytest.raises(WorkFailed, match="1 of 4 tensors are not written, the first is c"):
            again.publish()
        again.join(2)
        assert again.notes["c"] == "c"
        again.publish()
    assert not damaged.parent.parent.exists()


def test_gpus_are_taken_in_turn_and_one_that_is_named_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    third = rank(2, 4)
    third.local_rank = 3
    in_turn = [str(device_of_process(name, third, in_turn=True)) for name in ("auto", "cuda", "cuda:0", "cpu")]
    assert in_turn == ["cuda:1", "cuda:1", "cuda:0", "cpu"]
    with pytest.raises(RequestError, match="'cuda:3' is not here"):
        device_of_process("auto", third)
    third.local_rank = 1
    assert str(device_of_process("auto", third)) == "cuda:1"
    assert device_of_process("auto", rank(0, 1)).index is None
