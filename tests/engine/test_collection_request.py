from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from collection_cases import vit_request

from mats.curvature import CollectionSettings
from mats.data import Example
from mats.engine.collection import CollectionRequest, collection_folder
from mats.engine.collection_request import data_identity, estimator_of, example_digest, select_examples
from mats.errors import RequestError

MEASURED = {
    "name": "other",
    "split": "test",
    "examples": 7,
    "fold": (1, 2),
    "base": "bert",
    "dtype": "float64",
    "revision": "v2",
    "measured_on": "merged",
    "head": "vit",
    "position": 0.5,
    "settings": CollectionSettings(labels="sampled", seed=1),
}
NOT_MEASURED = {
    "model": "elsewhere",
    "batch_size": 64,
    "device": "cuda",
    "memory_budget": 10**6,
    "overwrite": True,
    "checkpoint_seconds": 1.0,
    "checkpoint_batches": 2,
    "trust_remote_code": True,
    "accumulators": "disk",
    "device_map": "auto",
    "heads": ("classifier*",),  # they tell what stays while a model is moved, and at position 1 nothing is
}


def test_every_field_either_changes_what_is_measured_or_does_not(tmp_path):
    request = vit_request(tmp_path)
    folder = collection_folder(request)
    for name, value in MEASURED.items():
        assert collection_folder(replace(request, **{name: value})) != folder, name
    for name, value in NOT_MEASURED.items():
        assert collection_folder(replace(request, **{name: value})) == folder, name
    other_data = replace(request, dataset=request.dataset.model_copy(update={"max_length": 9}))
    assert collection_folder(other_data) != folder
    moved_data = replace(request, dataset=request.dataset.model_copy(update={"root": tmp_path / "moved"}))
    assert collection_folder(moved_data) == folder
    fields = set(CollectionRequest.__dataclass_fields__)
    assert fields == set(MEASURED) | set(NOT_MEASURED) | {"dataset", "root"}


def test_every_setting_of_the_estimator_counts_but_limits_of_work(tmp_path):
    request = vit_request(tmp_path)
    changes = {
        "statistics": ("diagonal",),
        "labels": "exact",
        "loss": "sum",
        "seed": 9,
        "homogeneous": False,
        "accumulate_dtype": "float64",
        "output_gram_limit": 5,
        "block_limit": 5,
        "parameters": ("a*",),
        "block_parameters": ("a*",),
        "diagonal_parameters": ("a*",),
    }
    limits = {"memory_budget": 5, "exact_limit": 5}
    assert set(changes) | set(limits) | {"draws"} == set(CollectionSettings.__dataclass_fields__)
    digits = {collection_folder(replace(request, settings=CollectionSettings(**{k: v}))) for k, v in changes.items()}
    drawn = CollectionSettings(labels="sampled")
    assert "draws" not in estimator_of(replace(request, settings=drawn)), "older stores keep their names"
    digits |= {collection_folder(replace(request, settings=replace(drawn, draws=draws))) for draws in (1, 4)}
    assert len(digits | {collection_folder(request)}) == len(changes) + 3
    for name, value in limits.items():
        changed = replace(request, settings=CollectionSettings(**{name: value}))
        assert collection_folder(changed) == collection_folder(request)
    swapped = CollectionSettings(statistics=("output_gram", "input_gram"))
    assert collection_folder(replace(request, settings=swapped)) == collection_folder(request)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 0}, "examples: 0; 1 or more"),
        ({"batch_size": 0}, "batch_size: 0; 1 or more"),
        ({"checkpoint_batches": 0}, "checkpoint_batches: 0"),
        ({"checkpoint_seconds": 0.0}, r"checkpoint_seconds: 0\.0; more than 0"),
        ({"fold": (2, 2)}, r"fold: \(2, 2\); \(k, n\) with 0 ≤ k < n"),
        ({"fold": (0, 0)}, r"fold: \(0, 0\)"),
        ({"dtype": "int8"}, "dtype: 'int8' is not one of"),
    ],
)
def test_a_wrong_field_is_told(tmp_path, changes, message):
    with pytest.raises(RequestError, match=message):
        vit_request(tmp_path, **changes)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_folds_are_disjoint_and_cover_all(tmp_path, parts):
    request = vit_request(tmp_path)
    whole = select_examples(request)
    folds = [select_examples(replace(request, fold=(k, parts))) for k in range(parts)]
    found = [example.example_id for fold in folds for example in fold]
    assert sorted(found) == sorted(example.example_id for example in whole)
    assert all(fold == sorted(fold, key=lambda item: int(item.example_id.split(":")[1])) for fold in folds)
    total = sum(int(data_identity(request, fold).fingerprint, 16) for fold in folds) % (1 << 128)
    assert f"{total:032x}" == data_identity(request, whole).fingerprint


def test_an_example_is_told_apart_by_every_part_of_it():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2)
    examples = [
        Example("a:0", text="x"),
        Example("a:1", text="x"),
        Example("a:0", text="y"),
        Example("a:0", text="x", text_pair=""),
        Example("a:0", text="x", label=0),
        Example("a:0", text="x", target="x"),
        Example("a:0", text="x", choices=("x",)),
        Example("a:0", text="x", choices=("x", "")),
        Example("a:0", text="x", image=image),
        Example("a:0", text="x", image=image.T),
        Example("a:0", text="x", image=image.reshape(1, 4)),
        Example("a:0", text="x", image=image.astype(np.int8)),
    ]
    assert len({example_digest(example) for example in examples}) == len(examples)
