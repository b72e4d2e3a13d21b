"""The section of a recipe about the vocabulary of the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mats.recipes.sections import Section

if TYPE_CHECKING:
    from mats.checkpoints.vocabulary import TokenRule, TokenSource, VocabularyChoice

VocabularyWord = Literal["error", "base", "union"]


class TokenRowSection(Section):
    """One row: zeros, or that of a token of a model."""

    kind: Literal["zero", "model_token"] = Field(description="zero: a row of zeros; model_token: a row of a model.")
    model: str | None = Field(default=None, min_length=1, description="model_token: a model's name, or base.")
    token: str | None = Field(default=None, min_length=1, description="model_token: which of its tokens.")
    token_id: int | None = Field(default=None, ge=0, description="model_token: which of its rows, in place of token.")

    @model_validator(mode="after")
    def _one_row(self) -> TokenRowSection:
        """Exactly one row must be meant."""
        given = (self.model, self.token, self.token_id)
        if self.kind == "zero" and any(each is not None for each in given):
            raise ValueError("kind: zero is a row of zeros; no model, token or token_id beside it would be right")
        if self.kind == "model_token" and (self.model is None or (self.token is None) == (self.token_id is None)):
            raise ValueError("kind: model_token needs a model, and one of token and token_id")
        return self


class TokenSection(Section):
    """Where one token gets its row. The bare name of a model stands for `{source: name}`."""

    source: str | TokenRowSection | None = Field(
        default=None,
        description="The row: a model's name (base among them), {kind: zero}, or {kind: model_token, model, token}. "
        "Default: as for tokens that are not listed.",
    )
    force: bool = Field(default=False, description="Every model gets this row, also those that have one of their own.")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`math` → `{source: math}`; an empty entry only adds the token."""
        return {"source": value} if isinstance(value, str) else ({} if value is None else value)


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
    from mats.checkpoints.vocabulary import VocabularyChoice

    if section is None:
        return None
    rules = {token: _rule(entry) for token, entry in section.tokens.items()}
    return VocabularyChoice(section.source, rules, section.pad_to_multiple_of)


def _rule(entry: TokenSection) -> TokenRule:
    from mats.checkpoints.vocabulary import TokenRule

    return TokenRule(_source(entry.source), entry.force)


def _source(written: str | TokenRowSection | None) -> TokenSource | None:
    from mats.checkpoints.vocabulary import TokenSource

    if written is None or isinstance(written, str):
        return None if written is None else TokenSource(written)
    return TokenSource(written.model, written.token, written.token_id)
