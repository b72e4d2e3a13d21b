from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from collection_cases import (
    KillAfter,
    Killed,
    Recorder,
    content_of,
    vit_request,
    write_images,
    write_vit,
)
from safetensors.torch import load_file, save_file

from mats.checkpoints import open_checkpoint
from mats.curvature import CollectionSettings
from mats.engine.collection import collection_folder, plan_save_metadata, save_metadata
from mats.errors import (
    CheckpointCorrupt,
    DataError,
    NonFiniteStatistic,
    NonFiniteWeights,
    OutOfSpace,
    OutputExists,
    RequestError,
    StoreCorrupt,
    WorkFailed,
)
from mats.files import exclusive
from mats.store import add_stores, open_store, partial_folder, verify_store

ALL = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal", "block"))


def assert_same_sums(one, other, tolerance=1e-5):
    assert set(one) == set(other)
    for key in one:
        expected = other.sum(key).double()
        assert float((one.sum(key).double() - expected).norm()) <= tolerance * float(expected.norm()) + 1e-12, key


def visible(folder):
    """What lies in a folder under a name of its own."""
    return sorted(item.name for item in folder.glob("[!.]*"))


def test_a_model_and_its_data_become_a_store(tmp_path, device):
    request = vit_request(tmp_path, settings=ALL, device=device)
    progress = Recorder()
    folder = save_metadata(request, progress)
    assert folder == collection_folder(request)
    assert verify_store(folder) == []
    store = open_store(folder, verify=True)
    assert store.examples == 10
    assert store.manifest.example_ids == tuple(sorted(f"validation:{row}" for row in range(10)))
    with open_checkpoint(tmp_path / "vit") as checkpoint:
        store.check_model(checkpoint.fingerprint(), "vit")
        measured = {layer.weight for layer in store.manifest.layers} | set(store.manifest.parameters)
        assert measured | set(store.manifest.uncovered) == set(checkpoint.tensors)
    assert "10 examples in 4 batches" in progress.notes[0]
    run = json.loads((folder / "run.json").read_text())
    assert run["batch_size"] == 3
    assert run["seconds"] > 0
    assert not partial_folder(folder).exists()


def test_the_classifier_bias_sums_are_those_of_a_softmax(tmp_path):
    """Independent of every hook: for a linear head, ∂ loss / ∂ logits = softmax − one-hot."""
    from transformers import ViTForImageClassification

    request = vit_request(tmp_path, settings=replace(ALL, accumulate_dtype="float64"), dtype="float64")
    store = open_store(save_metadata(request))
    model = ViTForImageClassification.from_pretrained(tmp_path / "vit", dtype=torch.float64).eval()
    arrays = np.load(tmp_path / "data" / "validation.npz")
    pixels = torch.from_numpy(arrays["image"] / 255.0)[:, None]
    with torch.no_grad():
        states = model.vit(pixels).last_hidden_state[:, 0]
        delta = model.classifier(states).softmax(-1) - torch.nn.functional.one_hot(torch.from_numpy(arrays["label"]), 3)
    inputs = torch.cat([states, torch.ones(10, 1)], dim=1)
    layer = next(layer for layer in store.manifest.layers if layer.weight == "classifier.weight")
    expected = {
        "output_gram/classifier": delta.T @ delta,
        f"input_gram/{layer.site}": inputs.T @ inputs,
        "block/classifier.bias": delta.T @ delta,
        "diagonal/classifier.weight": (delta**2).T @ states**2,
    }
    for key, value in expected.items():
        assert float((store.sum(key) - value).norm()) <= 1e-6 * float(value.norm()), key
    assert store.tokens("layer", "classifier") == 10


def test_batch_size_changes_nothing_but_rounding_and_not_the_name(tmp_path):
    one = vit_request(tmp_path, settings=ALL)
    other = vit_request(tmp_path, settings=ALL, batch_size=10, root=tmp_path / "other")
    assert collection_folder(one).name == collection_folder(other).name
    assert_same_sums(open_store(save_metadata(one)), open_store(save_metadata(other)))


@pytest.mark.parametrize("labels", ["empirical", "sampled"])
def test_the_folds_add_up_to_the_whole(tmp_path, labels):
    settings = replace(ALL, labels=labels)
    whole = open_store(save_metadata(vit_request(tmp_path, settings=settings)))
    folds = [save_metadata(vit_request(tmp_path, settings=settings, fold=(k, 2))) for k in range(2)]
    assert len({whole.path, *folds}) == 3
    added = open_store(add_stores(folds, tmp_path / "added"), verify=True)
    assert_same_sums(added, whole)
    assert added.manifest.data == whole.manifest.data
    assert added.manifest.example_ids == whole.manifest.example_ids
    with pytest.raises(AssertionError):
        assert_same_sums(open_store(folds[0]), whole)


def test_a_complete_store_is_left_as_it_is(tmp_path):
    request = vit_request(tmp_path)
    folder = save_metadata(request)
    before = {item.name: (item.stat().st_mtime_ns, item.read_bytes()) for item in folder.iterdir()}
    progress = Recorder()
    assert save_metadata(request, progress) == folder
    assert {item.name: (item.stat().st_mtime_ns, item.read_bytes()) for item in folder.iterdir()} == before
    assert progress.stages == []
    assert "nothing to do" in progress.notes[0]
    assert plan_save_metadata(request).state == "complete"
    assert plan_save_metadata(request).lines() == progress.notes
    first = content_of(folder)
    save_metadata(replace(request, overwrite=True))
    assert content_of(folder) == first


def test_a_store_of_other_weights_or_examples_is_not_overwritten_silently(tmp_path):
    request = vit_request(tmp_path)
    folder = save_metadata(request)
    before = content_of(folder)
    write_vit(tmp_path / "vit", seed=1)
    with pytest.raises(OutputExists, match=r"measured on other weights \(xxh3_128:.*pass --overwrite"):
        save_metadata(request)
    write_vit(tmp_path / "vit", seed=0)
    write_images(tmp_path / "data", seed=1)
    with pytest.raises(OutputExists, match="measured on other examples; pass --overwrite"):
        save_metadata(request)
    assert content_of(folder) == before
    save_metadata(replace(request, overwrite=True))
    assert content_of(folder) != before


def test_a_damaged_store_is_told(tmp_path):
    request = vit_request(tmp_path)
    folder = save_metadata(request)
    (folder / "manifest.json").unlink()
    with pytest.raises(StoreCorrupt, match=r"without its manifest.*pass --overwrite to measure again"):
        save_metadata(request)
    save_metadata(replace(request, overwrite=True))
    assert verify_store(folder) == []


@pytest.mark.parametrize(("budget", "every"), [(None, 1), (None, 3), (30_000, 1)])
def test_a_run_stopped_anywhere_ends_with_the_bytes_of_one_that_was_not(tmp_path, budget, every):
    request = vit_request(tmp_path, settings=ALL, checkpoint_batches=every, memory_budget=budget)
    whole = save_metadata(replace(request, root=tmp_path / "whole"))
    passes = len(plan_save_metadata(request).collection.partitions)
    assert (passes > 1) == (budget is not None)
    went_on = 0
    for calls in (1, 3, 4, 5, 4 * passes + 1) if every == 1 else (2, 4):
        shutil.rmtree(tmp_path / "metadata", ignore_errors=True)
        with pytest.raises(Killed):
            save_metadata(request, KillAfter(calls))
        assert visible(tmp_path / "metadata" / "vit") == []
        progress = Recorder()
        folder = save_metadata(request, progress)
        went_on += any("going on after batch" in note for note in progress.notes)
        assert content_of(folder) == content_of(whole), calls
        assert [item.name for item in folder.parent.iterdir() if ".partial" in item.name] == []
    assert went_on >= (3 if every == 1 else 1)


def test_partial_sums_of_other_weights_batches_or_examples_are_not_mixed_in(tmp_path):
    request = vit_request(tmp_path, checkpoint_batches=1)
    for change in ("weights", "batch_size", "examples"):
        with pytest.raises(Killed):
            save_metadata(request, KillAfter(3))
        if change == "weights":
            write_vit(tmp_path / "vit", seed=5)
        elif change == "batch_size":
            request = replace(request, batch_size=4)
        else:
            write_images(tmp_path / "data", seed=5)
        progress = Recorder()
        folder = save_metadata(request, progress)
        assert any("partial sums of other work were there and are discarded" in note for note in progress.notes)
        fresh = save_metadata(replace(request, root=tmp_path / f"fresh-{change}"))
        assert content_of(folder) == content_of(fresh)
        shutil.rmtree(tmp_path / "metadata")


def test_passes_under_a_memory_budget_give_the_same_bytes(tmp_path):
    request = vit_request(tmp_path, settings=ALL)
    split = replace(request, root=tmp_path / "split", memory_budget=20_000)
    assert len(plan_save_metadata(split).collection.partitions) > 2
    assert content_of(save_metadata(request)) == content_of(save_metadata(split))


def test_the_plan_is_told_and_writes_nothing(tmp_path):
    request = vit_request(tmp_path, settings=replace(ALL, output_gram_limit=16))
    plan = plan_save_metadata(request)
    assert plan.state == "new"
    assert (plan.examples, plan.batches) == (10, 4)
    assert not (tmp_path / "metadata").exists()
    progress = Recorder()
    save_metadata(request, progress)
    assert progress.notes == plan.lines()
    assert any("no output_gram: 24 outputs" in line for line in plan.lines())


def poison(folder, name, value):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name].view(-1)[0] = value
    save_file(tensors, path, metadata={"format": "pt"})


def damaged(tmp_path, damage):
    """A request with one thing wrong."""
    request = vit_request(tmp_path)
    if damage == "nan":
        poison(tmp_path / "vit", "classifier.weight", float("nan"))
    elif damage == "huge":
        poison(tmp_path / "vit", "vit.layernorm.bias", 3e38)  # its square overflows
    elif damage == "truncated":
        path = tmp_path / "vit" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "empty":
        write_images(tmp_path / "data", count=0)
    elif damage == "label":
        write_images(tmp_path / "data", label=np.full(10, 3))
    elif damage == "no column":
        np.savez(tmp_path / "data" / "validation.npz", image=np.zeros((4, 8, 8), np.uint8))
    elif damage == "split":
        request = replace(request, split="tset")
    elif damage == "fold":
        request = replace(request, examples=1, fold=(0, 2))
        if open_fold(request) == 0:
            request = replace(request, fold=(1, 2))
    elif damage == "model":
        request = replace(request, model=str(tmp_path / "vti"))
    elif damage == "base":
        request = replace(request, base=str(tmp_path / "absent"))
    elif damage == "device":
        request = replace(request, device="cuda:99")
    elif damage == "patterns":
        request = replace(request, settings=replace(ALL, parameters=("decoder.*",)))
    elif damage == "budget":
        request = replace(request, memory_budget=100)
    return request


def open_fold(request):
    import xxhash

    return xxhash.xxh3_64_intdigest(b"validation:0") % 2


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("nan", NonFiniteWeights, r"classifier\.weight"),
        ("huge", NonFiniteStatistic, "classifier"),
        ("truncated", CheckpointCorrupt, r"model\.safetensors"),
        ("empty", DataError, "validation"),
        ("label", DataError, "3"),
        ("no column", DataError, "no column 'label'"),
        ("split", DataError, "tset"),
        ("fold", DataError, "holds none of the 1 examples"),
        ("model", RequestError, r"vti"),
        ("base", RequestError, "absent"),
        ("device", RequestError, "cuda:99"),
        ("budget", OutOfSpace, "memory_budget"),
        ("patterns", RequestError, r"nothing to measure: .*patterns decoder\.\*"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_nothing_is_left(tmp_path, damage, error, message):
    request = damaged(tmp_path, damage)
    with pytest.raises(error, match=message) as raised:
        save_metadata(request)
    assert "\n" not in str(raised.value)
    assert visible(tmp_path / "metadata" / "vit") == []


def test_two_runs_do_not_write_one_store(tmp_path):
    request = vit_request(tmp_path)
    folder = collection_folder(request)
    with (
        exclusive(folder.with_name(f".{folder.name}.lock")),
        pytest.raises(OutputExists, match="another run is writing"),
    ):
        save_metadata(request)


def test_a_root_that_is_a_file_is_told(tmp_path):
    (tmp_path / "metadata").write_text("in the way")
    with pytest.raises(WorkFailed, match=r"metadata/vit: (Not a directory|File exists)"):
        save_metadata(vit_request(tmp_path))


def test_what_of_the_checkpoint_the_model_does_not_show_is_named(tmp_path):
    """A renaming that goes unnoticed would leave most of a model unmeasured."""
    request = vit_request(tmp_path)
    path = tmp_path / "vit" / "model.safetensors"
    save_file({**load_file(path), "vit.extra.weight": torch.ones(3, 2)}, path, metadata={"format": "pt"})
    progress = Recorder()
    store = open_store(save_metadata(request, progress))
    assert store.manifest.uncovered["vit.extra.weight"] == "no parameter of the loaded model holds it"
    assert any("not measured: vit.extra.weight: no parameter" in note for note in progress.notes)
    with open_checkpoint(tmp_path / "vit") as checkpoint:
        rides_along = {layer.bias for layer in store.manifest.layers}
        measured = {layer.weight for layer in store.manifest.layers} | rides_along
        assert (measured | set(store.manifest.uncovered)) - {None} == set(checkpoint.tensors)


def test_out_of_memory_is_one_line(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr("mats.engine.collection.load_model", full)
    with pytest.raises(OutOfSpace, match=r"vit: out of memory on cpu; lower batch_size \(now 3\)"):
        save_metadata(vit_request(tmp_path))


def test_the_model_runs_in_the_dtype_asked_for(tmp_path):
    single, double = (
        open_store(save_metadata(vit_request(tmp_path, dtype=dtype, root=tmp_path / str(dtype))))
        for dtype in ("float32", "float64")
    )
    assert single.manifest.estimator["dtype"] == "float32"
    assert single.path.name != double.path.name
    assert_same_sums(single, double, 1e-4)
    assert any(not torch.equal(single.sum(key), double.sum(key)) for key in single)
