"""The section of a recipe about the vocabulary of the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mats.recipes.sections import Section

if TYPE_CHECKING:
    from mats.checkpoints.vocabulary import VocabularyChoice

VocabularyWord = Literal["error", "base", "union"]


class TokenRowSection(Section):
    """One row: zeros, or that of a token of a model."""

    kind: Literal["zero", "model_token"] = Field(description="zero: a row of zeros; model_token: a row of a model.")
    model: str | None = Field(default=None, min_length=1, description="model_token: a model's name, or base.")
    token: str | None = Field(
        default=None, min_length=1, description="model_token: which of its tokens. Default: the one in question."
    )
    token_id: int | None = Field(default=None, ge=0, description="model_token: which of its rows, in place of token.")

    @model_validator(mode="after")
    def _one_row(self) -> TokenRowSection:
        """Exactly one row must be meant."""
        if self.kind == "zero" and (self.model, self.token, self.token_id) != (None, None, None):
            raise ValueError("kind: zero is a row of zeros; no model, token or token_id beside it would be right")
        if self.kind == "model_token" and self.model is None:
            raise ValueError("kind: model_token needs a model")
        if self.token is not None and self.token_id is not None:
            raise ValueError("token and token_id are two rows; one of them would be right")
        return self


class TokenSection(Section):
    """Where one token gets its row. The bare name of a model stands for `{source: name}`."""

    source: TokenRowSection | None = Field(
        default=None,
        description="The row: a model's name (base among them), {kind: zero}, or {kind: model_token, model, token}. "
        "Default: as for tokens that are not listed.",
    )
    force: bool = Field(default=False, description="Every model gets this row, also those that have one of their own.")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`math` → `{source: math}` → that model's own row; an empty entry only adds the token."""
        if value is None or isinstance(value, str):
            value = {} if value is None else {"source": value}
        if isinstance(value, dict) and isinstance(value.get("source"), str):
            return {**value, "source": {"kind": "model_token", "model": value["source"]}}
        return value


class TokenizerSection(Section):
    """The vocabulary of the result. `tokenizer: base`, `union` or a model's name stands for `{source: …}`."""

    source: str = Field(
        default="union",
        min_length=1,
        description="Whose tokens the result has: base; union: the base's, then what the models have beyond them; or "
        "the name of a model.",
    )
    tokens: dict[str, TokenSection] = Field(
        default_factory=dict, description="Rows of single tokens; a token that nobody has is added."
    )
    pad_to_multiple_of: int | None = Field(
        default=None,
        ge=1,
        description="Rows of the embedding: the tokens, rounded up to a multiple of this; rows without a token are the "
        "mean of the others. Default: padding stays as it is.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`tokenizer: union` → `{source: union}`."""
        return {"source": value} if isinstance(value, str) else value


def vocabulary_of(section: TokenizerSection | None) -> VocabularyChoice | None:
    """What the engine is told about the output's vocabulary; None: nothing beyond `vocab`."""
    from mats.checkpoints.vocabulary import TokenRule, TokenSource, VocabularyChoice

    if section is None:
        return None
    rules = {}
    for token, entry in section.tokens.items():
        row = entry.source
        source = None if row is None else TokenSource(row.model, row.token, row.token_id)
        rules[token] = TokenRule(source, entry.force)
    return VocabularyChoice(section.source, rules, section.pad_to_multiple_of)
