"""Step one and step two on mixtures of experts, from files to files: fused in memory alone, and fused in files too."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from worded_models import save_tokenizer, word_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.architectures.families import FAMILIES, enlivened
from mats.checkpoints import open_checkpoint
from mats.curvature import CollectionSettings
from mats.data import DatasetSpec
from mats.engine import MergeRequest, ModelInput, merge
from mats.engine.collection import CollectionRequest, save_metadata
from mats.methods import MatsSettings
from mats.store import open_store

WORDS = ["<unk>", "<pad>", "<eos>", *(f"word{number}" for number in range(16))]


def specialist(family: str, folder: Path, seed: int) -> None:
    model = next(each for each in FAMILIES if each.name == family).build(torch.float32)
    enlivened(model, seed=seed, size=0.05).save_pretrained(folder)
    save_tokenizer(folder, word_tokenizer(WORDS))
    rows = [{"text": " ".join(WORDS[3 + (n * seed + k) % 16] for k in range(3 + n % 4))} for n in range(6)]
    (folder.parent / f"{folder.name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def request_for(folder: Path, root: Path) -> CollectionRequest:
    spec = DatasetSpec.model_validate(
        {
            "name": folder.name,
            "task": "language_modeling",
            "root": folder.parent,
            "source": {"format": "json_lines", "files": {"validation": f"{folder.name}.jsonl"}},
            "template": {"input": "{text}"},
        }
    )
    settings = CollectionSettings(statistics=("input_gram", "output_gram"))
    return CollectionRequest(
        model=str(folder), name=folder.name, dataset=spec, batch_size=2, root=root, device="cpu", settings=settings
    )


def measured(folder: Path, root: Path) -> Path:
    return save_metadata(request_for(folder, root))


@pytest.mark.parametrize("family", ["Mixtral", "gpt-oss"])
def test_every_expert_is_measured_and_merged_by_its_own_grams(family: str, tmp_path: Path) -> None:
    models = []
    for seed in (1, 2):
        folder = tmp_path / f"model{seed}"
        specialist(family, folder, seed)
        store = measured(folder, tmp_path / "metadata")
        models.append(ModelInput(folder.name, str(folder), metadata=str(store)))
    manifest = open_store(store).manifest
    with open_checkpoint(folder) as checkpoint:
        experts = {name for name in checkpoint.tensors if ".experts." in name and not name.endswith("_bias")}
    weights = {layer.weight.split("[")[0] for layer in manifest.layers}
    assert experts <= weights
    assert not [name for name in manifest.uncovered if ".experts." in name]
    method = MatsSettings(init={"method": "average"})
    report = merge(MergeRequest(models=tuple(models), method=method, output=tmp_path / "merged")).report
    rules = {entry["name"]: entry["rule"] for entry in report["layers"] if ".experts." in entry["name"]}
    assert len(rules) == (18 if family == "Mixtral" else 12)  # 2 layers · 3 experts · (w1, w2, w3 or two fused)
    assert set(rules.values()) == {"kfac"}
