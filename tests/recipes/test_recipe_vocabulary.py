"""`vocab`, `tokenizer` and `chat_template` in recipes: what they stand for, and faults with their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from mats.checkpoints.vocabulary import TokenRule, TokenSource, VocabularyChoice
from mats.errors import MatsError, RequestError
from mats.recipes import load_recipe
from mats.recipes.requests import merge_request
from mats.recipes.schema import Recipe

START = "base: b\nmodels: [x/math, x/code]\nmerge: average\noutput: o\n"


def asked(folder: Path, text: str, *overrides: str) -> VocabularyChoice | None:
    (folder / "recipe.yaml").write_text(START + text)
    recipe = load_recipe(folder / "recipe.yaml", list(overrides))
    assert Recipe.model_validate(recipe.as_written()) == recipe
    return merge_request(recipe).vocabulary


def test_words_stand_for_sections(tmp_path: Path) -> None:
    assert asked(tmp_path, "") is None
    assert asked(tmp_path, "vocab: base") == asked(tmp_path, "", "vocab=base") == VocabularyChoice("base")
    assert asked(tmp_path, "tokenizer: union") == asked(tmp_path, "tokenizer: {}") == VocabularyChoice("union")
    assert asked(tmp_path, "vocab: union\ntokenizer: {pad_to_multiple_of: 64}") == VocabularyChoice("union", {}, 64)
    assert asked(tmp_path, "tokenizer: code") == VocabularyChoice("code")


def test_rows_of_single_tokens(tmp_path: Path) -> None:
    text = """
tokenizer:
  source: base
  tokens:
    <chat>: math
    <zero>: {source: {kind: zero}}
    <end>: {source: {kind: model_token, model: base, token: </s>}, force: true}
    <third>: {source: {kind: model_token, model: code, token_id: 3}}
    <new>:
"""
    choice = asked(tmp_path, text)
    assert choice is not None
    assert choice.tokens == {
        "<chat>": TokenRule(TokenSource("math")),
        "<zero>": TokenRule(TokenSource(None)),
        "<end>": TokenRule(TokenSource("base", "</s>"), force=True),
        "<third>": TokenRule(TokenSource("code", row=3)),
        "<new>": TokenRule(),
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("vocab: both", r"recipe.yaml:5: vocab: received \"both\"; 'error', 'base' or 'union' would be right"),
        ("tokenizer: {sorce: base}", r"tokenizer: unknown key 'sorce'; did you mean 'source'\?"),
        ("tokenizer: {source: maths}", r"tokenizer.source: 'maths'; base, union or a model \(math, code\)"),
        ("tokenizer: {pad_to_multiple_of: 0}", r"pad_to_multiple_of: received 0; a number of at least 1"),
        ("tokenizer: {tokens: {a: {source: {kind: zeros}}}}", r"a.source.kind: received \"zeros\"; 'zero' or"),
        ("tokenizer: {tokens: {a: {source: {kind: zero, model: math}}}}", "no model, token or token_id beside it"),
        ("tokenizer: {tokens: {a: {source: {kind: model_token}}}}", "kind: model_token needs a model"),
        ("tokenizer: {tokens: {a: {force: true}}}", "tokenizer.tokens.a: force without a source"),
        ("tokenizer: {tokens: {a: bert}}", "tokenizer.tokens.a: model 'bert'; one of base, math, code would be right"),
        ("vocab: base\ntokenizer: union", "vocab: base, and tokenizer.source: union; one of them, or both alike"),
        ("chat_template: chatlm", "chat_template: 'chatlm'; auto, alpaca.*nearest: chatml"),
    ],
)
def test_faults_name_their_place(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(MatsError, match=line) as caught:
        asked(tmp_path, text)
    assert isinstance(caught.value, RequestError)
