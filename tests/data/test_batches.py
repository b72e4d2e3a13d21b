from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.data import DatasetSpec, Example, Processor, as_processor, make_batches, pad_rows, real_positions, shift_right
from mats.errors import DataError, InputsMismatch, RequestError

SpecFor = Callable[..., DatasetSpec]

TEXTS = ["the good film", "was it long ?", "bad", "is the film short yes", "no"]
PAIRED = [Example(f"test:{n}", text=text, text_pair="maybe " * (n + 1), label=n % 2) for n, text in enumerate(TEXTS)]
SINGLE = [Example(f"test:{n}", text=text, label=n % 2) for n, text in enumerate(TEXTS)]


def ids(tokenizer: Any, *texts: str) -> list[int]:
    return list(tokenizer(*texts)["input_ids"])


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5), st.sampled_from(["left", "right"]))
def test_padding_keeps_every_row_and_the_mask_finds_it(rows: list[list[int]], side: str) -> None:
    padded, mask = pad_rows(rows, -1, side=side), real_positions(rows, side=side)
    assert [row[keep].tolist() for row, keep in zip(padded, mask, strict=True)] == rows
    assert bool((padded[~mask] == -1).all())


def test_shift_right_by_hand() -> None:
    labels = torch.tensor([[5, 6, 1], [7, 1, -100], [1, -100, -100]])
    assert shift_right(labels, start_id=9, pad_id=0).tolist() == [[9, 5, 6], [9, 7, 1], [9, 1, 0]]


@pytest.mark.parametrize("examples", [SINGLE, PAIRED], ids=["single", "pairs"])
def test_text_batches_hold_the_tokens_of_each_example(
    tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any, examples: list[Example]
) -> None:
    batches = make_batches(examples, spec_for(tmp_path), bert_tokenizer, 2)
    assert [batch.size for batch in batches] == [2, 2, 1]
    position = 0
    for batch in batches:
        assert batch.input_mask is not None
        assert torch.equal(batch.input_mask, batch.inputs["attention_mask"].bool())
        for row in range(batch.size):
            example = examples[position]
            pair = () if example.text_pair is None else (example.text_pair,)
            alone = bert_tokenizer(example.text, *pair)
            mask = batch.input_mask[row]
            assert batch.example_ids[row] == example.example_id
            assert int(batch.labels[row]) == example.label
            assert batch.inputs["input_ids"][row][mask].tolist() == alone["input_ids"]
            assert batch.inputs["token_type_ids"][row][mask].tolist() == alone["token_type_ids"]
            position += 1
    assert position == len(examples)


def test_batches_are_a_lazy_sequence(tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any) -> None:
    batches = make_batches(SINGLE, spec_for(tmp_path), bert_tokenizer, 2)
    assert len(batches) == 3
    assert [batch.example_ids for batch in batches[1:]] == [("test:2", "test:3"), ("test:4",)]
    assert batches[-1].example_ids == ("test:4",)
    assert torch.equal(batches[0].inputs["input_ids"], batches[0].inputs["input_ids"])
    with pytest.raises(IndexError, match="out of range"):
        batches[3]


def test_batches_are_on_the_device(tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any, device: str) -> None:
    batch = make_batches(SINGLE, spec_for(tmp_path), bert_tokenizer, 2, device=device)[0]
    assert {tensor.device.type for tensor in (*batch.inputs.values(), batch.labels)} == {device}


def test_long_texts_are_cut_and_keep_their_end(tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any) -> None:
    batch = make_batches(SINGLE, spec_for(tmp_path, max_length=4), bert_tokenizer, 5)[0]
    assert batch.inputs["input_ids"].shape == (5, 4)
    assert batch.inputs["input_ids"][1, -1] == bert_tokenizer.eos_token_id


def ranked(*choices: str, label: int, text: str = "is it red ?") -> Example:
    return Example("test:0", text=text, label=label, target=choices[label], choices=choices)


def test_text_to_text_batch_by_hand(tmp_path: Path, spec_for: SpecFor, t5_tokenizer: Any) -> None:
    spec = spec_for(tmp_path, task="text_to_text", labels=None, template="{q}", choices=["a", "b"])
    examples = [ranked("yes maybe", "no", label=1), ranked("red", "the good film", label=1, text="bad")]
    batch = make_batches(examples, spec, Processor(t5_tokenizer, pad_id=0, decoder_start_id=7), 2)[0]
    no, film = ids(t5_tokenizer, "no"), ids(t5_tokenizer, "the good film")
    assert batch.labels.tolist() == [no + [-100] * 2, film]
    assert batch.inputs["decoder_input_ids"].tolist() == [[7, *no, 0], [7, *film[:-1]]]
    assert batch.target_mask is not None
    assert batch.target_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.choices is not None
    assert batch.gold is not None
    assert batch.gold.tolist() == [1, 1]
    assert batch.choices.tolist() == [
        [[*ids(t5_tokenizer, "yes maybe"), -100], [*no, -100, -100]],
        [[*ids(t5_tokenizer, "red"), -100, -100], film],
    ]


def test_the_decoder_starts_as_the_model_says(t5_tokenizer: Any) -> None:
    assert as_processor(t5_tokenizer, {"decoder_start_token_id": 3, "pad_token_id": 2}).decoder_start_id == 3
    assert as_processor(t5_tokenizer, {"pad_token_id": 2}).decoder_start_id == 2
    assert as_processor(t5_tokenizer).decoder_start_id == t5_tokenizer.pad_token_id


def test_a_batch_ends_where_the_number_of_choices_changes(tmp_path: Path, spec_for: SpecFor, t5_tokenizer: Any) -> None:
    spec = spec_for(tmp_path, task="text_to_text", labels=None, template="{q}", choices=["a", "b"])
    counts = [2, 2, 3, 3, 3, 2]
    examples = [ranked(*["yes", "no", "maybe"][:count], label=0) for count in counts]
    batches = make_batches(examples, spec, t5_tokenizer, 2)
    assert [(batch.size, batch.choices.shape[1]) for batch in batches if batch.choices is not None] == [
        (2, 2),
        (2, 3),
        (1, 3),
        (1, 2),
    ]


def test_language_modeling_scores_all_but_the_first_token(
    tmp_path: Path, spec_for: SpecFor, gpt_tokenizer: Any
) -> None:
    spec = spec_for(tmp_path, task="language_modeling", labels=None)
    batch = make_batches([Example("a", text="the good film"), Example("b", text="was it")], spec, gpt_tokenizer, 2)[0]
    film, was = ids(gpt_tokenizer, "the good film"), ids(gpt_tokenizer, "was it")
    assert batch.labels.tolist() == [[-100, *film[1:]], [-100, was[1], -100]]
    assert "position_ids" not in batch.inputs


def test_the_prompt_is_not_scored(tmp_path: Path, spec_for: SpecFor, gpt_tokenizer: Any) -> None:
    examples = [Example("a", text="is it red ?", target="yes maybe")]
    prompt, target = ids(gpt_tokenizer, "is it red ?"), ids(gpt_tokenizer, "yes maybe")
    changes = {"task": "language_modeling", "labels": None, "template": {"input": "{q}", "target": "{a}"}}
    batch = make_batches(examples, spec_for(tmp_path, **changes), gpt_tokenizer, 1)[0]
    assert batch.inputs["input_ids"].tolist() == [prompt + target]
    assert batch.labels.tolist() == [[-100] * len(prompt) + target]
    scored = make_batches(examples, spec_for(tmp_path, **changes, score_prompt=True), gpt_tokenizer, 1)[0]
    assert scored.labels.tolist() == [[-100, *prompt[1:], *target]]
    cut = make_batches(examples, spec_for(tmp_path, **changes, max_length=3), gpt_tokenizer, 1)[0]
    assert cut.labels.tolist() == [[-100, *target]]
    assert cut.inputs["input_ids"].tolist() == [[prompt[-1], *target]]


def test_left_padding_brings_position_ids(tmp_path: Path, spec_for: SpecFor, gpt_tokenizer: Any) -> None:
    spec = spec_for(tmp_path, task="language_modeling", labels=None, padding_side="left")
    batch = make_batches([Example("a", text="the good film"), Example("b", text="was it")], spec, gpt_tokenizer, 2)[0]
    was = ids(gpt_tokenizer, "was it")
    assert batch.inputs["input_ids"][1].tolist() == [gpt_tokenizer.pad_token_id, *was]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]]
    assert batch.labels[1].tolist() == [-100, -100, was[1]]


@pytest.mark.parametrize(
    ("example", "task", "message"),
    [
        (Example("test:7", text="", label=0), "text_classification", "example test:7: text '' has no tokens"),
        (Example("test:7", text="film"), "language_modeling", "example test:7: has no token to predict"),
        (Example("test:7", text="film", target=""), "text_to_text", "example test:7: target '' has no tokens"),
        (
            Example("test:7", text="film", target="no", choices=("no", ""), label=0),
            "text_to_text",
            "example test:7: answer choice '' has no tokens",
        ),
    ],
)
def test_what_leaves_nothing_to_score_is_named(
    tmp_path: Path, spec_for: SpecFor, gpt_tokenizer: Any, example: Example, task: str, message: str
) -> None:
    template = {"input": "{q}", "target": "{a}"} if task == "text_to_text" else None
    spec = spec_for(tmp_path, task=task, template=template)
    with pytest.raises(DataError, match=message):
        make_batches([example], spec, gpt_tokenizer, 1)[0]


def test_tokenizer_of_another_model_is_refused(tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any) -> None:
    small = Processor(bert_tokenizer, pad_id=0, decoder_start_id=0, vocabulary_size=5)
    with pytest.raises(InputsMismatch, match=r"token id \d+ is beyond the model's vocabulary of 5"):
        make_batches(SINGLE, spec_for(tmp_path), small, 5)[0]


def test_wrong_requests(tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any) -> None:
    with pytest.raises(RequestError, match="batch_size 0; 1 or more"):
        make_batches(SINGLE, spec_for(tmp_path), bert_tokenizer, 0)
    with pytest.raises(DataError, match="dataset toy: no examples"):
        make_batches([], spec_for(tmp_path), bert_tokenizer, 1)
    with pytest.raises(RequestError, match="needs a tokenizer"):
        make_batches(SINGLE, spec_for(tmp_path), None, 1)


def test_regression_labels_are_numbers(tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any) -> None:
    examples = [Example("test:0", text="bad", label=1.25), Example("test:1", text="good film", label=5.0)]
    batch = make_batches(examples, spec_for(tmp_path, task="text_regression", labels=None), bert_tokenizer, 2)[0]
    assert (batch.task, batch.labels.dtype) == ("text_regression", torch.float32)
    assert batch.labels.tolist() == [1.25, 5.0]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_by_length_hold_every_example_once(
    tmp_path: Path, spec_for: SpecFor, bert_tokenizer: Any, size: int
) -> None:
    spec = spec_for(tmp_path)
    plain = make_batches(SINGLE, spec, bert_tokenizer, size)
    planned = make_batches(SINGLE, spec, bert_tokenizer, size, by_length=True)
    lengths = [int(n) for batch in planned for n in batch.inputs["attention_mask"].sum(dim=1)]
    assert lengths == sorted(lengths, reverse=True)
    assert {id_ for batch in planned for id_ in batch.example_ids} == {example.example_id for example in SINGLE}
    assert padding(planned) <= padding(plain)
    if size == 2:
        assert padding(planned) < padding(plain)
    for batch in planned:
        for row, id_ in enumerate(batch.example_ids):
            example = next(example for example in SINGLE if example.example_id == id_)
            assert int(batch.labels[row]) == example.label


def padding(batches: Any) -> int:
    return sum(int((batch.inputs["attention_mask"] == 0).sum()) for batch in batches)


def test_batches_by_length_keep_choices_together(tmp_path: Path, spec_for: SpecFor, t5_tokenizer: Any) -> None:
    """Choices fill a tensor, so examples with two of them and with three cannot share a batch."""
    spec = spec_for(tmp_path, task="text_to_text", template="{q}", choices=["no", "yes"])
    examples = [
        Example(f"test:{n}", text="the " * (n + 1), label=0, target="no", choices=("no", "yes", "maybe")[: 2 + n % 2])
        for n in range(6)
    ]
    planned = make_batches(examples, spec, t5_tokenizer, 3, by_length=True)
    assert [batch.example_ids for batch in planned] == [("test:4", "test:2", "test:0"), ("test:5", "test:3", "test:1")]


def test_prompts_alone_are_padded_on_the_left(tmp_path: Path, spec_for: SpecFor, gpt_tokenizer: Any) -> None:
    spec = spec_for(
        tmp_path, task="language_modeling", labels=None, max_length=6, generation={"max_new_tokens": 2}, template="{q}"
    )
    examples = [
        Example("test:0", text="the good bad film was long", target="yes", answers=("yes",)),
        Example("test:1", text="no", target="yes", answers=("yes", "no")),
    ]
    batch = make_batches(examples, spec, gpt_tokenizer, 2, prompts_only=True)[0]
    kept = ids(gpt_tokenizer, "bad film was long")  # four of six tokens leave room for two new ones
    assert batch.inputs["input_ids"].tolist() == [kept, [0, 0, 0, *ids(gpt_tokenizer, "no")]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert bool((batch.labels == -100).all())
    assert batch.answers == (("yes",), ("yes", "no"))
    assert batch.select([1]).answers == (("yes", "no"),)
