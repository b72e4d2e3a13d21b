"""The vocabularies of the inputs of a merge, as their tokenizers and embeddings tell; and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mats.checkpoints import Checkpoint
from mats.checkpoints.vocabulary_rows import TokenRows, disagreement
from mats.checkpoints.vocabulary_tensors import embedding_of
from mats.checkpoints.vocabulary_tokens import TokenizerFiles, tokenizer_files
from mats.errors import CheckpointCorrupt, InputsMismatch, RequestError

SHOWN = 5  # tokens named in a message
WAY_OUT = "`vocab: base` (--vocab base) keeps the base's tokens, `vocab: union` (--vocab union) all of them"


@dataclass(frozen=True)
class Spoken:
    """One input with an input embedding, and its tokens where a tokenizer lies beside it.

    Attributes:
        name: "base", or what the request calls the model.
        checkpoint: its tensors.
        embedding: name of its input embedding.
        rows: of that.
        files: its tokenizer; None where there is none.
    """

    name: str
    checkpoint: Checkpoint
    embedding: str
    rows: int
    files: TokenizerFiles | None

    def token_rows(self, ids: dict[str, int]) -> TokenRows:
        """The tokens of `ids` that have a row here."""
        return TokenRows({token: row for token, row in ids.items() if row < self.rows}, self.rows)


def speak(named: Sequence[tuple[str, Checkpoint]]) -> list[Spoken]:
    """Those of the inputs that have an input embedding; tokenizers are found, not yet read."""
    found = []
    for name, checkpoint in named:
        embedding = embedding_of(checkpoint)
        if checkpoint.kind == "model" and embedding is not None:
            files = tokenizer_files(checkpoint.path, checkpoint.config)
            found.append(Spoken(name, checkpoint, embedding.name, embedding.shape[0], files))
    return found


def check_agreement(inputs: Sequence[Spoken]) -> list[str]:
    """Refuse inputs whose rows differ in number, or in the tokens that they stand for.

    Returns:
        What is no disagreement and worth a note, a sentence each: tokens in rows that are padding elsewhere.

    Raises:
        InputsMismatch: naming the first difference, and the way out.
    """
    notes: list[str] = []
    first, read = inputs[0], next((each for each in inputs if each.files is not None), None)
    for other in inputs[1:]:
        if other.rows != first.rows:
            raise InputsMismatch(
                f"model {other.name}: {other.embedding} has {other.rows} rows, {_who(first)} has {first.rows}: their "
                f"vocabularies differ; {WAY_OUT}"
            )
        if read is None or other is read or other.files is None or read.files is None:
            continue
        if other.files.digest != read.files.digest:
            notes += _compare(read, read.files, other, other.files)
    return notes


def _compare(first: Spoken, first_files: TokenizerFiles, other: Spoken, other_files: TokenizerFiles) -> list[str]:
    try:
        ours, theirs = first.token_rows(first_files.tokens), other.token_rows(other_files.tokens)
    except CheckpointCorrupt as error:
        return [f"the order of tokens was not compared: {error}"]
    odd = disagreement(ours, theirs)
    if odd is not None:
        row, token, theirs_there = odd
        raise InputsMismatch(
            f"model {other.name}: row {row} of {other.embedding} is the token {theirs_there!r}, in {_who(first)} it is "
            f"{token!r}: their tokenizers differ; {WAY_OUT}"
        )
    extra = [token for token in theirs.tokens if token not in ours.tokens]
    if not extra:
        return []
    listed = named_tokens(extra)
    return [f"model {other.name} has tokens in rows without one in {_who(first)}: {listed}; vocab: union keeps them"]


def named_tokens(tokens: Sequence[str]) -> str:
    """A few tokens by name, and how many there are."""
    return ", ".join(map(repr, tokens[:SHOWN])) + (f" … ({len(tokens)})" if len(tokens) > SHOWN else "")


def _who(spoken: Spoken) -> str:
    return f"the base {spoken.checkpoint.name}" if spoken.name == "base" else f"model {spoken.name}"


def known_tokens(inputs: Sequence[Spoken], choice: str) -> tuple[list[dict[str, int]], dict[str, str]]:
    """Token → id of every input. Who has no tokenizer is taken to have that of the first with as many rows.

    Args:
        inputs: base and models.
        choice: what was asked for, for messages.

    Returns:
        The tokens in the order of the inputs, and for those without a tokenizer whose they got.

    Raises:
        InputsMismatch: nobody else has as many rows.
        CheckpointCorrupt: a tokenizer cannot be read.
    """
    by_files: dict[str, dict[str, int]] = {}
    found: list[dict[str, int]] = []
    borrowed: dict[str, str] = {}
    for spoken in inputs:
        owner = spoken
        if spoken.files is None:
            alike = (other for other in inputs if other.files is not None and other.rows == spoken.rows)
            lender = next(alike, None)
            if lender is None:
                raise InputsMismatch(
                    f"vocab: {choice}: {_who(spoken)} has {spoken.rows} rows and no tokenizer beside its weights, nor "
                    "has any input with as many; its tokenizer files in its folder would be right"
                )
            owner = lender
            borrowed[spoken.name] = lender.name
        assert owner.files is not None
        if owner.files.digest not in by_files:
            by_files[owner.files.digest] = owner.files.tokens
        found.append(by_files[owner.files.digest])
    return found, borrowed


def require_embeddings(named: Sequence[tuple[str, Checkpoint]], spoken: Sequence[Spoken], choice: str) -> None:
    """Refuse to bring together the vocabularies of what has none.

    Raises:
        RequestError: an adapter, or a model without an input embedding.
    """
    having = {each.name for each in spoken}
    for name, checkpoint in named:
        if name not in having:
            what = "is an adapter" if checkpoint.kind != "model" else "has no input embedding among its tensors"
            raise RequestError(f"vocab: {choice}: {name} {what}; vocab: error would be right")
