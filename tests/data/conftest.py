"""Tiny tokenizers, trained in a blink, and dataset files written on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

WORDS = "the good bad film was long short yes no is it a question answer maybe red green blue ? : ."
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]


def word_tokenizer(single: str, pair: str) -> Any:
    """A transformers tokenizer of whole words; `single` and `pair` say where the special tokens go."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, SPECIAL.index(token)) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        cls_token="<s>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def t5_tokenizer() -> Any:
    """Ends every text with </s>, as T5 does."""
    return word_tokenizer("$A </s>", "$A </s> $B </s>")


@pytest.fixture(scope="session")
def bert_tokenizer() -> Any:
    """Frames texts and numbers the two of a pair, as BERT does."""
    return word_tokenizer("<s> $A </s>", "<s> $A </s> $B:1 </s>:1")


@pytest.fixture(scope="session")
def gpt_tokenizer() -> Any:
    """Adds nothing, as GPT-2 does."""
    return word_tokenizer("$A", "$A $B:1")


@pytest.fixture
def write_json_lines(tmp_path: Path) -> Callable[[str, list[Any]], Path]:
    """Writes rows to `<tmp_path>/<name>`, one JSON value per line."""

    def write(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def make_spec(folder: Path, **changes: Any) -> Any:
    """A text-classification specification on `<folder>/test.jsonl`, with changes; None drops a key."""
    from mats.data import parse_spec

    content: dict[str, Any] = {
        "name": "toy",
        "task": "text_classification",
        "source": {"format": "json_lines", "files": {"test": "test.jsonl"}},
        "labels": 2,
    }
    content.update(changes)
    return parse_spec({key: value for key, value in content.items() if value is not None}, folder=folder)


@pytest.fixture
def spec_for() -> Callable[..., Any]:
    """`make_spec`, for tests."""
    return make_spec
