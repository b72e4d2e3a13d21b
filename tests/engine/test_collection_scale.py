"""Sums on disk, a full disk, models under accelerate's hooks, and what is said before the first batch."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collection_cases import KillAfter, Killed, Recorder, content_of, vit_request, write_images, write_vit
from forked_ranks import run_ranks

from mats.curvature import CollectionSettings, Collector, plan_collection
from mats.data.batch import Batch
from mats.engine.collection import collection_folder, plan_save_metadata, save_metadata
from mats.engine.collection_placement import check_all_here
from mats.errors import OutOfSpace, RequestError
from mats.store import partial_folder, verify_store

ALL = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal", "block"))


@pytest.mark.parametrize("accumulators", ["cpu", "disk"])
@pytest.mark.parametrize("budget", [None, 30_000])
def test_where_sums_accumulate_changes_no_byte(tmp_path: Path, accumulators: str, budget: int | None) -> None:
    request = vit_request(tmp_path, settings=ALL, memory_budget=budget, checkpoint_batches=1)
    whole = content_of(save_metadata(replace(request, root=tmp_path / "whole")))
    placed = replace(request, accumulators=accumulators)
    with pytest.raises(Killed):
        save_metadata(placed, KillAfter(3))
    folder = save_metadata(placed)
    assert content_of(folder) == whole
    assert [item.name for item in folder.parent.iterdir() if item != folder] == [f".{folder.name}.lock"]


def test_memory_is_told_before_the_first_batch(tmp_path: Path) -> None:
    plan = plan_save_metadata(vit_request(tmp_path, settings=ALL, accumulators="disk"))
    assert plan.memory is not None
    assert plan.collection is not None
    assert plan.memory.sums == plan.collection.partition_bytes
    assert plan.memory.accumulators == "disk"
    assert f"memory: model {plan.memory.model:,} bytes" in plan.lines()[2]
    larger = plan_save_metadata(vit_request(tmp_path, settings=ALL, batch_size=10)).memory
    assert larger is not None
    assert larger.activations > 2 * plan.memory.activations


def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The writer of partial sums finds the disk full at its n-th call."""
    import mats.store.partial

    write, calls = mats.store.partial.write_tensor_file, [0]

    def failing(path: Path, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *arguments)

    monkeypatch.setattr("mats.store.partial.write_tensor_file", failing)


@pytest.mark.parametrize("after", [1, 3])
def test_a_full_disk_keeps_the_save_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    request = vit_request(tmp_path, settings=ALL, checkpoint_batches=1)
    whole = content_of(save_metadata(replace(request, root=tmp_path / "whole")))
    with monkeypatch.context() as patched:
        full_disk(tmp_path, patched, after)
        with pytest.raises(OutOfSpace, match="partition-00000") as raised:
            save_metadata(request)
    assert "\n" not in str(raised.value)
    folder = collection_folder(request)
    assert not folder.exists()
    kept = [item.name for item in partial_folder(folder).iterdir()] if partial_folder(folder).exists() else []
    assert kept == ([] if after == 1 else ["partition-00000.safetensors"])
    progress = Recorder()
    assert content_of(save_metadata(request, progress)) == whole
    assert any(f"going on after batch {after - 1}" in note for note in progress.notes) == (after > 1)


def kill_at_batch(request: Any, batch: int) -> None:
    """In a forked process: SIGKILL in the middle of a batch."""
    run = Collector._count

    def counted(self: Collector, measured: Any, items: Batch, number: int) -> None:
        if number == batch:
            os.kill(os.getpid(), signal.SIGKILL)
        run(self, measured, items, number)

    Collector._count = counted  # type: ignore[method-assign]  (this process ends soon)
    save_metadata(request)


@pytest.mark.parametrize("change", ["weights", "fewer examples", "other examples", "batch size", "statistics"])
def test_what_changed_after_a_kill_is_told_and_nothing_is_mixed(tmp_path: Path, change: str) -> None:
    from functools import partial

    request = vit_request(tmp_path, settings=ALL, checkpoint_batches=1)
    assert run_ranks(partial(kill_at_batch, request, 3), tmp_path / "said", count=1) == [-signal.SIGKILL]
    assert [item.name for item in partial_folder(collection_folder(request)).iterdir()] != []
    if change == "weights":
        write_vit(tmp_path / "vit", seed=9)
    elif change == "fewer examples":
        shutil.rmtree(tmp_path / "data")
        write_images(tmp_path / "data", count=7)
    elif change == "other examples":
        shutil.rmtree(tmp_path / "data")
        write_images(tmp_path / "data", seed=9)
    elif change == "batch size":
        request = replace(request, batch_size=4)
    else:  # another folder: the partial sums of the first stay with it
        request = replace(request, settings=CollectionSettings())
    progress = Recorder()
    folder = save_metadata(request, progress)
    discarded = [note for note in progress.notes if "partial sums of other work were there and are discarded" in note]
    assert len(discarded) == (0 if change == "statistics" else 1)
    assert not any("going on" in note for note in progress.notes)
    assert content_of(folder) == content_of(save_metadata(replace(request, root=tmp_path / "fresh")))


def small_vit(tmp_path: Path) -> Any:
    from transformers import ViTForImageClassification

    return ViTForImageClassification.from_pretrained(write_vit(tmp_path / "vit")).eval()


def vit_batch() -> Batch:
    import torch

    torch.manual_seed(0)
    return Batch(
        {"pixel_values": torch.rand(5, 1, 8, 8)},
        tuple("abcde"),
        "image_classification",
        None,
        None,
        torch.arange(5) % 3,
    )


def test_a_model_under_accelerates_hooks_has_the_same_sums(tmp_path: Path) -> None:
    """`dispatch_model` wraps every part in hooks that move inputs; on a machine without GPUs from the CPU to itself."""
    import torch
    from accelerate import dispatch_model

    batch, plain, spread = vit_batch(), small_vit(tmp_path), small_vit(tmp_path)
    parts = {"vit.embeddings": "cpu", "vit.layers.0": "cpu", "vit.layers.1": "cpu", "vit.layernorm": "cpu"}
    known = {name for name, _ in spread.named_modules()}
    parts = {
        name if name in known else name.replace("vit.layers", "vit.encoder.layer"): at for name, at in parts.items()
    }
    spread = dispatch_model(spread, {**parts, "classifier": "cpu"}, main_device="cpu", force_hooks=True)
    assert hasattr(spread, "_hf_hook")
    found = []
    for model in (plain, spread):
        plan = plan_collection(model, batch, ALL)
        with Collector(model, plan) as collector:
            collector.add(batch)
            found.append(collector.sums())
    assert set(found[0].tensors) == set(found[1].tensors)
    assert all(torch.equal(found[0].tensors[key], found[1].tensors[key]) for key in found[0].tensors)


def test_offloaded_weights_are_refused(tmp_path: Path) -> None:
    from accelerate import disk_offload

    model = small_vit(tmp_path)
    check_all_here(model, "vit")
    disk_offload(model, str(tmp_path / "offload"), execution_device="cpu")
    with pytest.raises(RequestError, match=r"vit: \d+ parameters are not in memory \(vit\..*offloaded or sharded"):
        check_all_here(model, "vit")


def test_device_map_on_a_machine_without_gpus_is_the_cpu(tmp_path: Path) -> None:
    request = vit_request(tmp_path)
    whole = content_of(save_metadata(replace(request, root=tmp_path / "whole")))
    assert content_of(save_metadata(replace(request, device_map="auto"))) == whole


@pytest.mark.slow
def test_accelerate_launches_two_processes(tmp_path: Path) -> None:
    """`--multi_gpu` is accelerate's word for its launcher of several; the request says CPU."""
    request = vit_request(tmp_path, settings=ALL)
    alone = save_metadata(replace(request, root=tmp_path / "alone"))
    script = tmp_path / "program.py"
    script.write_text(
        "import pickle, sys\nfrom mats.engine.collection import save_metadata\n"
        "save_metadata(pickle.load(open(sys.argv[1], 'rb')))\n"
    )
    import pickle

    (tmp_path / "request").write_bytes(pickle.dumps(request))
    words = ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0", "--multi_gpu"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *words]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "request")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = collection_folder(request)
    assert verify_store(folder) == []
    assert '"processes": 2' in (folder / "run.json").read_text()
    assert sorted(item.name for item in folder.iterdir()) == sorted(item.name for item in alone.iterdir())
