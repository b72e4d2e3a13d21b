"""What a user may say about vocabularies: whose tokens the output has, and where single tokens get their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mats.errors import RequestError

WORDS = ("base", "union")
"""What `tokenizer.source` may say besides the name of a model."""


@dataclass(frozen=True)
class TokenSource:
    """One row of one model.

    Attributes:
        model: a model's name, or "base"; None: a row of zeros.
        token: which of its tokens; None: the token in question.
        row: which of its rows, in place of `token`.
    """

    model: str | None
    token: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class TokenRule:
    """Where one token gets its row.

    Attributes:
        source: the row; None: by the rules for tokens that nothing is said about.
        force: every model gets this row, also those that have one of their own.
    """

    source: TokenSource | None = None
    force: bool = False


@dataclass(frozen=True)
class VocabularyChoice:
    """Whose tokens the output has.

    Attributes:
        source: "base" (without a base: the first model's), "union", or the name of a model.
        tokens: exceptions; a token that is in no vocabulary yet is added to the output's.
        pad_to_multiple_of: rows are the tokens rounded up to a multiple of this, rows without a token are the mean of
            the others; None: rows without a token stay as they are.
    """

    source: str = "union"
    tokens: Mapping[str, TokenRule] = field(default_factory=lambda: MappingProxyType({}))
    pad_to_multiple_of: int | None = None

    def check(self, models: tuple[str, ...], *, base: bool) -> None:
        """Check what needs no file.

        Raises:
            RequestError: an unknown source, a token taken from a model that is not there, a multiple below 1.
        """
        known = ("base", *models) if base else models
        if self.source not in (*WORDS, *models):
            raise RequestError(
                f"tokenizer.source: {self.source!r}; base, union or a model ({', '.join(models)}) would be right"
            )
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise RequestError(f"tokenizer.pad_to_multiple_of: {self.pad_to_multiple_of}; a number from 1 on is right")
        for token, rule in self.tokens.items():
            where = f"tokenizer.tokens.{token}"
            if rule.source is not None and rule.source.model is not None and rule.source.model not in known:
                raise RequestError(f"{where}: model {rule.source.model!r}; one of {', '.join(known)} would be right")
            if rule.force and rule.source is None:
                raise RequestError(f"{where}: force without a source; a model, or {{kind: zero}}, would be right")
