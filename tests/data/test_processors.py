from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mats.data import DatasetSpec, load_processor
from mats.errors import DataError, RequestError

SpecFor = Callable[..., DatasetSpec]


def checkpoint(folder: Path, config: dict[str, Any], tokenizer: Any = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


T5 = {"model_type": "t5", "vocab_size": 30, "decoder_start_token_id": 2, "pad_token_id": 0}


def test_tokenizer_and_ids_come_from_the_checkpoint(tmp_path: Path, spec_for: SpecFor, t5_tokenizer: Any) -> None:
    processor = load_processor(checkpoint(tmp_path / "model", T5, t5_tokenizer), spec_for(tmp_path))
    assert processor is not None
    assert (processor.pad_id, processor.decoder_start_id, processor.vocabulary_size) == (0, 2, 30)
    assert processor.tokenizer("the film")["input_ids"] == t5_tokenizer("the film")["input_ids"]


def test_model_without_tokenizer_is_refused_not_given_an_empty_one(tmp_path: Path, spec_for: SpecFor) -> None:
    folder = checkpoint(tmp_path / "model", {"model_type": "bert"})
    with pytest.raises(RequestError, match="model: the folder has no tokenizer files"):
        load_processor(folder, spec_for(tmp_path))


def test_fallback_brings_the_tokenizer(tmp_path: Path, spec_for: SpecFor, t5_tokenizer: Any) -> None:
    bare = checkpoint(tmp_path / "bare", T5)
    base = checkpoint(tmp_path / "base", T5, t5_tokenizer)
    processor = load_processor(bare, spec_for(tmp_path), fallback=base)
    assert processor is not None
    assert processor.tokenizer("film")["input_ids"] == t5_tokenizer("film")["input_ids"]


def test_adapter_takes_what_it_lacks_from_the_base_it_names(
    tmp_path: Path, spec_for: SpecFor, t5_tokenizer: Any
) -> None:
    base = checkpoint(tmp_path / "base", {**T5, "decoder_start_token_id": 3}, t5_tokenizer)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    processor = load_processor(adapter, spec_for(tmp_path))
    assert processor is not None
    assert processor.decoder_start_id == 3
    t5_tokenizer.save_pretrained(adapter)  # with a tokenizer of its own it still has no decoder start
    processor = load_processor(adapter, spec_for(tmp_path))
    assert processor is not None
    assert processor.decoder_start_id == 3


def test_images_need_none(tmp_path: Path, spec_for: SpecFor) -> None:
    assert load_processor(tmp_path, spec_for(tmp_path, task="image_classification", image={})) is None


def test_missing_place_and_broken_config(tmp_path: Path, spec_for: SpecFor, t5_tokenizer: Any) -> None:
    with pytest.raises(RequestError, match=r"no tokenizer found \(.*nowhere"):
        load_processor(tmp_path / "nowhere", spec_for(tmp_path))
    folder = checkpoint(tmp_path / "model", T5, t5_tokenizer)
    (folder / "config.json").write_text("{")
    with pytest.raises((DataError, RequestError), match="config"):
        load_processor(folder, spec_for(tmp_path))
