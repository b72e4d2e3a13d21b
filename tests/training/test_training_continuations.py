"""Pieces of text whose target is the next piece."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from training_cases import TinyBase

from mats.data import DatasetSpec, Example, load_processor, load_spec
from mats.errors import DataError, RequestError
from mats.training import TrainingSettings, fine_tune, plan_training, read_report
from mats.training.continuations import continuation_examples, continuation_spec

Bases = Callable[[str], TinyBase]


@pytest.fixture
def texts(tmp_path: Path) -> DatasetSpec:
    """Twenty texts of five words."""
    rows = [{"text": "the cat sees a dog"}, {"text": "a bird walks near very"}] * 10
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts.yaml").write_text(
        "name: texts\ntask: language_modeling\nsource: {format: json_lines, files: {train: texts.jsonl}}\n"
    )
    return load_spec(tmp_path / "texts.yaml")


def test_pieces_follow_each_other(tiny_base: Bases, texts: DatasetSpec) -> None:
    processor = load_processor(tiny_base("t5").base, continuation_spec(texts, 4))
    assert processor is not None
    rows = [Example("0", text="the cat sees a dog"), Example("1", text="a bird walks near very")]
    pieces = continuation_examples(rows, processor, 4, "texts")
    assert [(piece.text, piece.target) for piece in pieces] == [("the cat sees a", "dog a bird walks")]
    with pytest.raises(DataError, match="dataset texts: 1 pieces of 8 tokens; more text, or smaller pieces"):
        continuation_examples(rows, processor, 8, "texts")


def test_an_encoder_decoder_learns_to_go_on(tiny_base: Bases, tmp_path: Path, texts: DatasetSpec) -> None:
    base = tiny_base("t5")
    settings = {"continuation": 5, "validation": None, "updates": 60, "evaluate_every": 20, "learning_rate": 1e-2}
    request = replace(base.request(tmp_path / "out", **settings), datasets=(texts,))
    assert len(plan_training(request).data.items) == 19
    losses = [entry["training_loss"] for entry in read_report(fine_tune(request))["evaluations"]]
    assert losses[-1] < 0.1 < 1.0 < losses[0]


def test_what_cannot_be_continued_is_refused(tiny_base: Bases) -> None:
    with pytest.raises(RequestError, match="dataset colour is text_to_text; language_modeling would be right"):
        continuation_spec(tiny_base("t5").spec(), 4)
    with pytest.raises(ValidationError, match="continuation has nothing to score; validation: null would be right"):
        TrainingSettings(continuation=4)
