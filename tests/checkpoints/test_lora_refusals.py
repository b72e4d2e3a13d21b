"""What a LoRA file can hold that no weight can stand for: refused by name, before any tensor is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import peft
import pytest
import torch
from adapter_cases import save_pair
from safetensors.torch import load_file, save_file

from mats.checkpoints import open_checkpoint, open_lora
from mats.checkpoints.lora_config import IRRELEVANT, UNDERSTOOD
from mats.errors import CheckpointCorrupt, MatsError, RequestError, ShapeMismatch

FEATURES: dict[str, Any] = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "ensure_weight_tying": True,
    "kasa_config": {"beta": 0.1},
    "layer_replication": [[0, 2], [1, 2]],
    "megatron_config": {"tensor_model_parallel_size": 2},
    "monteclora_config": {"samples": 4},
    "target_parameters": ["experts.gate_up_proj"],
    "trainable_token_indices": [3],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "a_setting_of_the_year_2031": True,
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    save_pair(tmp_path, tiny.bert, peft.LoraConfig(r=2, target_modules=["query"]))
    return tmp_path / "adapter"


def rewrite(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.parametrize("feature", FEATURES)
def test_r01_other_features_are_refused_by_name(adapter: Path, feature: str) -> None:
    open_lora(adapter).close()  # as it is, it is fine
    rewrite(adapter, **{feature: FEATURES[feature]})
    with pytest.raises(RequestError, match=f"LoRA with {feature} .* cannot be merged"):
        open_lora(adapter)


@pytest.mark.parametrize("initial", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_initialisations_that_change_the_base_are_refused(adapter: Path, initial: str) -> None:
    rewrite(adapter, init_lora_weights=initial)
    with pytest.raises(RequestError, match=f"init_lora_weights is '{initial}', which changes the base"):
        open_lora(adapter)


@pytest.mark.parametrize("kind", ["VERA", "LOKR", "ADALORA", "PROMPT_TUNING", "OFT"])
def test_other_adapter_types_are_refused_by_name(adapter: Path, kind: str) -> None:
    rewrite(adapter, peft_type=kind)
    with pytest.raises(RequestError, match=f"adapter type {kind}; supported are IA3 and LORA"):
        open_checkpoint(adapter)


def test_every_setting_of_the_installed_peft_is_decided_upon() -> None:
    """A new version's settings must be sorted into one of three: honoured, without effect, refused."""
    known = UNDERSTOOD | IRRELEVANT | FEATURES.keys()
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= known


def edit(adapter: Path, **changes: torch.Tensor | None) -> None:
    file = adapter / "adapter_model.safetensors"
    prefix = "base_model.model.bert.encoder.layer.0.attention.self.query."
    tensors = load_file(file) | {prefix + name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


FAULTS: dict[str, tuple[dict[str, torch.Tensor | None], type[MatsError], str]] = {
    "no_partner": ({"lora_A__weight": None}, CheckpointCorrupt, "no factor A"),
    "ranks_differ": ({"lora_A__weight": torch.ones(3, 16)}, ShapeMismatch, r"A \[3, 16\] has rank 3, B \[16, 2\] 2"),
    "no_matrix": ({"lora_B__weight": torch.ones(16)}, ShapeMismatch, "are no A"),
    "grouped": (
        {"lora_A__weight": torch.ones(2, 4, 3, 3), "lora_B__weight": torch.ones(16, 1, 1, 1)},
        ShapeMismatch,
        "grouped convolutions",
    ),
    "unknown_leaf": ({"lora_E": torch.ones(3)}, RequestError, "is no part of a LoRA module known here"),
    "rank_not_declared": (
        {"lora_A__weight": torch.ones(3, 16), "lora_B__weight": torch.ones(16, 3)},
        ShapeMismatch,
        "has factors of rank 3, its configuration says 2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files_are_refused(adapter: Path, fault: str) -> None:
    changes, error, message = FAULTS[fault]
    edit(adapter, **changes)
    with pytest.raises(error, match=message):
        open_lora(adapter)


def test_a_file_without_its_configuration_has_no_scaling(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(RequestError, match="its scaling α/r is unknown"):
        open_lora(adapter / "adapter_model.safetensors")


def test_a_model_is_no_adapter(adapter: Path) -> None:
    with pytest.raises(RequestError, match="is a model; a LoRA adapter is needed here"):
        open_lora(adapter.parent / "base")
