"""Rank classification by causal models, against transformers' own loss of one prompt with one choice at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_texts import tiny_gpt2, tiny_t5, word_tokenizer, write_dataset

from mats.data import Example, as_processor, load_examples
from mats.errors import InputsMismatch
from mats.evaluation import evaluate_dataset, prepare_data
from mats.evaluation.causal import continuations_of


def dataset(folder: Path, **content: Any) -> Any:
    return write_dataset(
        folder, "pick", task="text_to_text", template="{text}", choices=["{a}", "{b}", "{c}"], **content
    )


def alone(model: Any, tokenizer: Any, example: Example, choice: str, *, mean: bool) -> float:
    prompt, answer = tokenizer(example.text)["input_ids"], tokenizer(choice)["input_ids"]
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    labels = ids.clone()
    labels[0, : len(prompt)] = -100
    with torch.no_grad():
        return -float(model(ids, labels=labels).loss) * (1 if mean else len(answer))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_equals_one_by_one(tmp_path: Path, device: str, size: int, normalised: bool) -> None:
    spec = dataset(tmp_path, length_normalization=normalised)
    model = tiny_gpt2().double().to(device)
    tokenizer = word_tokenizer()
    examples = load_examples(spec, "test")
    processor = as_processor(tokenizer, model.config.to_dict())
    result = evaluate_dataset(model, prepare_data(spec, examples, processor, size, decoder_only=True))
    right = 0
    for example, entry in zip(examples, result.predictions, strict=True):
        scores = [alone(model, tokenizer, example, choice, mean=normalised) for choice in example.choices]
        assert entry["scores"] == pytest.approx(scores, rel=1e-5)
        assert entry["prediction"] == scores.index(max(scores))
        assert entry["example_id"] == example.example_id
        right += entry["prediction"] == example.label
    assert result.value == pytest.approx(right / len(examples))


def test_length_normalisation_and_the_prompt_matter(tmp_path: Path) -> None:
    """Negative controls: by mean and by sum differ, and so do prompts exchanged."""
    model, tokenizer = tiny_gpt2().double(), word_tokenizer()
    by_sum, by_mean = dataset(tmp_path), dataset(tmp_path, length_normalization=True)
    examples = load_examples(by_sum, "test")
    first, second = (
        evaluate_dataset(model, prepare_data(spec, examples, tokenizer, 4, decoder_only=True))
        for spec in (by_sum, by_mean)
    )
    assert [e["prediction"] for e in first.predictions] != [e["prediction"] for e in second.predictions]
    other = dataset(tmp_path)
    exchanged = load_examples(
        other.model_copy(update={"template": other.template.model_copy(update={"input": "w9"})}), "test"
    )
    third = evaluate_dataset(model, prepare_data(other, exchanged, tokenizer, 4, decoder_only=True))
    pairs = zip(first.predictions, third.predictions, strict=True)
    assert max(abs(ours["scores"][0] - theirs["scores"][0]) for ours, theirs in pairs) > 0.1


def test_a_space_joins_where_there_is_none() -> None:
    shown = [
        [continuation.text + (continuation.target or "") for continuation in continuations_of([example])]
        for example in (
            Example("test:0", text="Is it?", choices=("yes", " no")),
            Example("test:1", text="Answer: ", choices=("yes", "no")),
        )
    ]
    assert shown == [["Is it? yes", "Is it? no"], ["Answer: yes", "Answer: no"]]


def test_data_for_the_other_kind_of_model_is_refused(tmp_path: Path) -> None:
    spec = dataset(tmp_path)
    examples, tokenizer = load_examples(spec, "test"), word_tokenizer()
    with pytest.raises(InputsMismatch, match="prepared for an encoder–decoder model, and this is a causal one"):
        evaluate_dataset(tiny_gpt2(), prepare_data(spec, examples, tokenizer, 4))
    with pytest.raises(InputsMismatch, match="prepared for a causal model, and this is an encoder–decoder one"):
        evaluate_dataset(tiny_t5(), prepare_data(spec, examples, tokenizer, 4, decoder_only=True))
