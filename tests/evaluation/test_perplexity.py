"""Strided perplexity against one forward pass per token, each with the context that its window gives it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_texts import tiny_gpt2, word_tokenizer, write_dataset

from mats.data import as_processor, load_examples
from mats.data.generation import PerplexitySettings
from mats.errors import InputsMismatch, NonFiniteStatistic
from mats.evaluation import evaluate_dataset, prepare_data
from mats.evaluation.perplexity import window_ranges
from mats.evaluation.result import result_of


@given(st.integers(2, 300), st.integers(2, 40), st.data())
def test_every_token_but_the_first_is_scored_once(tokens: int, window: int, data: Any) -> None:
    settings = PerplexitySettings(window=window, stride=data.draw(st.integers(1, window)))
    scored: list[int] = []
    for begin, end, count in window_ranges(tokens, settings):
        assert 0 <= begin < end - count  # something stands before the first scored token
        assert end - begin <= window
        scored += range(end - count, end)
    assert scored == list(range(1, tokens))


def test_windows_are_those_of_the_published_script() -> None:
    """transformers' guide: windows begin at every stride, and score what the one before did not."""
    tokens, window, stride, previous = 3000, 1024, 512, 0
    published = []
    for begin in range(0, tokens, stride):
        end = min(begin + window, tokens)
        published.append((begin, end, end - previous - (begin == 0)))  # the very first token has no prediction
        previous = end
        if end == tokens:
            break
    assert list(window_ranges(tokens, PerplexitySettings())) == published


@pytest.fixture
def case(tmp_path: Path, device: str) -> Any:
    spec = write_dataset(
        tmp_path, "prose", task="language_modeling", metrics=["perplexity"], perplexity={"window": 9, "stride": 4}
    )
    model = tiny_gpt2().double().to(device)
    return model, spec, as_processor(word_tokenizer(), model.config.to_dict())


def token_by_token(model: Any, ids: list[int], window: int, stride: int) -> float:
    """exp of the mean of −log p over all tokens but the first; token t is read after those of its window."""
    losses = []
    for token in range(1, len(ids)):
        chunk = 0 if token < window else 1 + (token - window) // stride
        context = ids[chunk * stride : token]
        with torch.no_grad():
            logits = model(torch.tensor([context], device=model.device)).logits[0, -1]
        losses.append(-float(logits.log_softmax(-1)[ids[token]]))
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("size", [1, 3, 64])
def test_equals_token_by_token(case: Any, size: int) -> None:
    model, spec, processor = case
    examples = load_examples(spec, "test")
    ids = processor.tokenizer("\n\n".join(example.text for example in examples))["input_ids"]
    assert len(ids) > 40
    result = evaluate_dataset(model, prepare_data(spec, examples, processor, size, decoder_only=True))
    assert result.value == pytest.approx(token_by_token(model, ids, 9, 4), rel=1e-5)
    assert sum(entry["tokens"] for entry in result.predictions) == len(ids) - 1
    assert result.examples == len(examples)
    # Negative controls: windows that do not overlap, and the published sum, which is one token too many.
    assert abs(result.value - token_by_token(model, ids, 9, 8)) > 0.01 * result.value
    inexact = sum(-entry["log_likelihood"] / entry["tokens"] * (entry["tokens"] + 1) for entry in result.predictions)
    assert abs(result.value - math.exp(inexact / len(ids))) > 1e-3 * result.value


def test_a_begin_token_lets_all_of_the_text_be_scored(case: Any) -> None:
    model, spec, processor = case
    from tokenizers import processors

    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="w7 $A", special_tokens=[("w7", 7)]
    )
    tokenizer.bos_token = "w7"
    examples = load_examples(spec, "test")
    text = processor.tokenizer("\n\n".join(example.text for example in examples))["input_ids"]
    result = evaluate_dataset(model, prepare_data(spec, examples, tokenizer, 4, decoder_only=True))
    assert sum(entry["tokens"] for entry in result.predictions) == len(text)
    assert result.value == pytest.approx(token_by_token(model, [7, *text], 9, 4), rel=1e-5)


def test_a_tokenizer_of_another_model_is_refused(case: Any) -> None:
    _, spec, processor = case
    with pytest.raises(InputsMismatch, match="beyond the model's vocabulary of 5"):
        prepare_data(spec, load_examples(spec, "test"), as_processor(processor.tokenizer, {"vocab_size": 5}), 4)


def test_no_number_is_refused(case: Any) -> None:
    model, spec, processor = case
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    data = prepare_data(spec, load_examples(spec, "test"), processor, 4, decoder_only=True)
    with pytest.raises(NonFiniteStatistic, match="test:window:0"):
        evaluate_dataset(model, data)
    with pytest.raises(NonFiniteStatistic, match="beyond any number"):
        result_of(["perplexity"], [{"example_id": "0", "log_likelihood": -1e5, "tokens": 10}], 1)
