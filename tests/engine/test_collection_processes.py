"""Two processes that share the batches write the store of one: same manifest, same sums, resumed exactly."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from collection_cases import content_of, vit_request, write_images, write_vit
from forked_ranks import run_ranks

from mats.curvature import CollectionSettings, Collector
from mats.data.batch import Batch
from mats.engine.collection import CollectionRequest, collection_folder, save_metadata
from mats.errors import InputsMismatch, NonFiniteStatistic, WorkFailed
from mats.store import open_store, partial_folder, verify_store

ALL = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal", "block"))


def manifest_without_rounding(folder: Path) -> dict[str, Any]:
    """The manifest but for what rounding changes: checksums and fourth moments."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("fourth_moments")
    for record in manifest["files"].values() if isinstance(manifest["files"], dict) else manifest["files"]:
        record.pop("checksum", None)
        record.pop("xxh3_128", None)
    return manifest


def stop_after(batches: int, rank: int) -> None:
    """In a forked process: SIGKILL itself at the end of batch number `batches` of its own, if it is `rank`."""
    add, seen = Collector.add, [0]

    def counted(self: Collector, batch: Batch, number: int | None = None) -> None:
        add(self, batch, number)
        seen[0] += 1
        if seen[0] == batches and int(os.environ["RANK"]) == rank:
            os.kill(os.getpid(), signal.SIGKILL)

    Collector.add = counted  # type: ignore[method-assign]  (this process ends soon)


def measured(request: CollectionRequest, stopped: tuple[int, int] | None = None) -> str:
    if stopped is not None:
        stop_after(*stopped)
    return str(save_metadata(request))


def assert_close(one: Path, other: Path) -> None:
    first, second = open_store(one, verify=True), open_store(other, verify=True)
    assert set(first) == set(second)
    for key in first:
        expected = second.sum(key).double()
        assert float((first.sum(key).double() - expected).norm()) <= 2e-6 * float(expected.norm()) + 1e-12, key
    ours, theirs = first.manifest.fourth_moments, second.manifest.fourth_moments
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("count", "budget"), [(2, None), (2, 30_000), (5, None)])
def test_processes_write_the_store_of_one(tmp_path: Path, count: int, budget: int | None) -> None:
    """Of five processes one has no batch at all."""
    request = vit_request(tmp_path, settings=ALL, memory_budget=budget)
    alone = save_metadata(replace(request, root=tmp_path / "alone"))
    said = run_ranks(partial(measured, request), tmp_path / "said", count)
    folder = collection_folder(request)
    assert said == [str(folder)] * count
    assert verify_store(folder) == []
    assert folder.name == alone.name
    assert manifest_without_rounding(folder) == manifest_without_rounding(alone)
    assert_close(folder, alone)
    assert json.loads((folder / "run.json").read_text())["processes"] == count
    assert [item.name for item in folder.parent.iterdir() if item != folder] == [f".{folder.name}.lock"]


@pytest.mark.parametrize(("batches", "rank", "budget"), [(1, 0, None), (2, 1, None), (2, 0, 30_000), (3, 1, 30_000)])
def test_killed_processes_are_gone_on_from_to_the_same_bytes(
    tmp_path: Path, batches: int, rank: int, budget: int | None
) -> None:
    request = vit_request(tmp_path, settings=ALL, checkpoint_batches=1, memory_budget=budget)
    whole = replace(request, root=tmp_path / "whole")
    run_ranks(partial(measured, whole), tmp_path / "said")
    said = run_ranks(partial(measured, request, (batches, rank)), tmp_path / "killed")
    assert said[rank] == -signal.SIGKILL
    assert isinstance(said[1 - rank], WorkFailed)
    assert "another one is gone" in str(said[1 - rank])
    folder = collection_folder(request)
    assert not folder.exists()
    run_ranks(partial(measured, request), tmp_path / "again")
    assert content_of(folder) == content_of(collection_folder(whole))


def test_another_number_of_processes_starts_again_and_says_so(tmp_path: Path) -> None:
    from collection_cases import Recorder

    request = vit_request(tmp_path, checkpoint_batches=1)
    run_ranks(partial(measured, request, (2, 1)), tmp_path / "killed")
    folder = collection_folder(request)
    assert sorted(item.name for item in partial_folder(folder).iterdir()) != []
    progress = Recorder()
    save_metadata(request, progress)
    assert any("partial sums of other work were there and are discarded (processes" in note for note in progress.notes)
    alone = save_metadata(replace(request, root=tmp_path / "alone"))
    assert content_of(folder) == content_of(alone)


def measured_with_a_nan(request: CollectionRequest, number_of_nan: int) -> str:
    """The first pixel of one batch becomes NaN on its way to the model."""
    add = Collector.add

    def spoilt(self: Collector, batch: Batch, number: int | None = None) -> None:
        if number == number_of_nan:
            batch.inputs["pixel_values"][0, 0, 0, 0] = float("nan")
        add(self, batch, number)

    Collector.add = spoilt  # type: ignore[method-assign]  (this process ends soon)
    return str(save_metadata(request))


def test_a_nan_in_one_process_stops_all_with_site_batch_and_examples(tmp_path: Path) -> None:
    request = vit_request(tmp_path)
    first, second = run_ranks(partial(measured_with_a_nan, request, 2), tmp_path / "said")
    told = "activations are NaN or infinite in batch 2 of examples validation:3, validation:4, validation:5"
    assert isinstance(second, NonFiniteStatistic)
    assert told in str(second)
    assert isinstance(first, WorkFailed)
    assert str(first) == f"process 1 of 2 stopped: {second}"
    assert not collection_folder(request).exists()


def measured_by_rank(requests: list[CollectionRequest]) -> str:
    return str(save_metadata(requests[int(os.environ["RANK"])]))


def test_processes_that_see_other_files_are_not_added_up(tmp_path: Path) -> None:
    request = vit_request(tmp_path)
    write_vit(tmp_path / "other", seed=3)
    other = replace(request, model=str(tmp_path / "other"))
    first, second = run_ranks(partial(measured_by_rank, [request, other]), tmp_path / "said")
    for error in (first, second):
        assert isinstance(error, InputsMismatch)
        assert "process 1 of 2 sees another model" in str(error)
    write_images(tmp_path / "fewer", count=8)
    shutil.rmtree(tmp_path / "metadata")
    fewer = replace(request, dataset=request.dataset.model_copy(update={"root": tmp_path / "fewer"}))
    said = run_ranks(partial(measured_by_rank, [request, fewer]), tmp_path / "said")
    assert all("sees another model, other examples" in str(error) for error in said)
