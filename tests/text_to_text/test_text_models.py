"""Prompts and rows of the tasks, and the untrained model as every command of `mats` loads it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from extent import FULL, ROWS, TINY
from pieces import cut_pieces, projected_embeddings
from prompted import OWN, SHARED, TASKS, load_prompted
from small_t5 import Shape, save_untrained

from mats.checkpoints import load_model
from mats.data import load_examples, load_processor, make_batches
from mats.errors import DataError

SHAPE = Shape(pieces=70, width=16, inner=24, layers=2, heads=2)
TASK = replace(TASKS[3], shared=20, train=40)


def test_no_row_serves_twice(data_folder: Path) -> None:
    spec = load_prompted(TASK, data_folder)
    texts = [[e.text for e in load_examples(spec, split)] for split in (SHARED, OWN, "tuning", "train")]
    shared, own, tuning, all_rows = texts
    assert shared + own == all_rows
    assert tuning == own[TASK.train :]


def test_an_example_is_a_prompt_and_the_words_of_its_label(data_folder: Path) -> None:
    example = load_examples(load_prompted(TASK, data_folder), "train", limit=2)[1]
    assert example.text == "premise: the film river t b hypothesis: a river"
    assert (example.choices, example.label) == (("entailment", "neutral", "contradiction"), 1)
    assert example.target == "neutral"
    banking = load_prompted(TASKS[5], data_folder)
    assert banking.choices == ("card arrival", "lost card?", "top up")


def test_missing_labels_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.json: missing"):
        load_prompted(TASK, tmp_path)


def test_the_untrained_model_is_read_back_as_it_was_made(encoder_folder: Path, data_folder: Path) -> None:
    pieces = cut_pieces(encoder_folder, ["the film", "a river"], SHAPE.pieces)
    folder = encoder_folder / "untrained"
    save_untrained(folder, SHAPE, pieces, encoder_folder)
    model = load_model(folder, "text_to_text")
    embeddings, output = model.get_parameter("shared.weight"), model.get_parameter("lm_head.weight")
    torch.testing.assert_close(embeddings, projected_embeddings(encoder_folder, pieces.sources, SHAPE.width))
    assert output.shape == embeddings.shape
    assert float(output.detach().std()) == pytest.approx(SHAPE.width**-0.5, rel=0.1)
    assert model.config.scale_decoder_outputs is False
    spec = load_prompted(TASK, data_folder)
    (batch,) = make_batches(load_examples(spec, "test", limit=4), spec, load_processor(folder, spec), 4)
    ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].sum(dim=1)
    assert ids[torch.arange(4), real - 1].tolist() == [1] * 4
    assert batch.inputs["decoder_input_ids"][:, 0].tolist() == [0] * 4
    loss = torch.nn.functional.cross_entropy(model(**batch.inputs).logits.flatten(0, 1), batch.labels.flatten())
    assert float(loss.detach()) < 2 * math.log(SHAPE.pieces)  # tied and unscaled it begins far above


def test_tasks_and_rows_of_the_tiny_extent_are_those_of_the_full_one() -> None:
    assert [task.name for task in TINY.tasks] == [task.name for task in FULL.tasks]
    assert [row.name for row in TINY.rows] == [row.name for row in FULL.rows] == [row.name for row in ROWS]
    assert all(len(row.candidates()) <= 2 for row in TINY.rows)
    mats = next(row for row in ROWS if row.name == "mats")
    assert mats.overrides == ("merge.method=mats",)
