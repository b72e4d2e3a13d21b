"""The vocabulary of an output: whose tokens, under which ids, and where single tokens get their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mats.checkpoints.vocabulary import TokenSource, VocabularyChoice
from mats.checkpoints.vocabulary_extension import NewToken, added_tokens, extended, scores
from mats.checkpoints.vocabulary_files import OutputVocabulary
from mats.checkpoints.vocabulary_rows import Sources, TokenRows
from mats.checkpoints.vocabulary_tokens import TokenizerFiles
from mats.engine.vocabulary_reading import Spoken
from mats.errors import InputsMismatch, RequestError


@dataclass(frozen=True)
class Decided:
    """The output's vocabulary, and what its files must say.

    Attributes:
        tokens: token → row, for the tokens that have one.
        files: what is written.
        added: tokens that the source does not have, in order.
    """

    tokens: TokenRows
    files: OutputVocabulary
    added: tuple[str, ...]


def decide(inputs: Sequence[Spoken], ids: Sequence[Mapping[str, int]], choice: VocabularyChoice) -> Decided:
    """The output's vocabulary: the source's tokens under their ids, then the new ones.

    Args:
        inputs: the base first, if there is one, then the models.
        ids: token → id of each.
        choice: what the request says.

    Raises:
        InputsMismatch: the source's tokenizer cannot take the new tokens under the ids of their rows.
    """
    position = _source(inputs, choice)
    source, own = inputs[position], ids[position]
    new = _new_tokens(inputs, ids, choice, position)
    first = max(own.values(), default=-1) + 1
    tokens = {**own, **{token.content: first + number for number, token in enumerate(new)}}
    rows = max(source.rows, first + len(new)) if new else source.rows
    multiple = choice.pad_to_multiple_of
    if multiple is not None:
        rows = -(-(first + len(new)) // multiple) * multiple
    definition = None
    if new:
        definition = _extended(inputs, source, first, new)
    added = {first + number: token.added for number, token in enumerate(new) if token.added is not None}
    files = OutputVocabulary(source.checkpoint, _files_of(inputs, source), rows, definition, added)
    kept = {token: row for token, row in tokens.items() if row < rows}
    return Decided(TokenRows(kept, rows), files, tuple(token.content for token in new))


def _source(inputs: Sequence[Spoken], choice: VocabularyChoice) -> int:
    """Whose tokens come first: the named model's, else the base's, else the first model's."""
    names = [each.name for each in inputs]
    return names.index(choice.source) if choice.source in names else 0


def _new_tokens(
    inputs: Sequence[Spoken], ids: Sequence[Mapping[str, int]], choice: VocabularyChoice, position: int
) -> list[NewToken]:
    """The tokens that the source lacks: for a union those of the others in order, then those the request names."""
    known = set(ids[position])
    new: list[NewToken] = []
    for spoken, own in zip(inputs, ids, strict=True) if choice.source == "union" else ():
        fresh = sorted((token for token in own if token not in known), key=lambda token: own[token])
        if not fresh:
            continue
        known.update(fresh)
        definition = None if spoken.files is None else spoken.files.definition
        added, chances = added_tokens(definition), scores(definition)
        new += [NewToken(token, added.get(token), chances.get(token, 0.0)) for token in fresh]
    for token in choice.tokens:
        if token not in known:
            entries = (added_tokens(each.files.definition).get(token) for each in inputs if each.files is not None)
            new.append(NewToken(token, next((entry for entry in entries if entry is not None), {})))
    return new


def _files_of(inputs: Sequence[Spoken], source: Spoken) -> TokenizerFiles:
    """The source's tokenizer, or the one that it is taken to have."""
    return source.files or next(each.files for each in inputs if each.files is not None and each.rows == source.rows)


def _extended(inputs: Sequence[Spoken], source: Spoken, first: int, new: Sequence[NewToken]) -> str:
    files = _files_of(inputs, source)
    if files.definition is None:
        raise InputsMismatch(
            f"{files.folder}: its tokenizer has no tokenizer.json and none can be made of it, so that no token can be "
            "added; vocab: base would be right"
        )
    others = [each.files.definition for each in inputs if each.files is not None and each is not source]
    return extended(files.definition, first, new, [each for each in others if each is not None], files.folder)


def resolved_rules(
    inputs: Sequence[Spoken], ids: Sequence[Mapping[str, int]], choice: VocabularyChoice
) -> dict[str, tuple[Sources, bool]]:
    """Token → the row that the request gives it, and whether every model gets it.

    Raises:
        RequestError: a model does not have the token or the row, or nobody has a token without a source.
    """
    rules: dict[str, tuple[Sources, bool]] = {}
    for token, rule in choice.tokens.items():
        if rule.source is not None:
            rules[token] = (_sources(inputs, ids, token, rule.source), rule.force)
        elif not any(token in own and own[token] < each.rows for each, own in zip(inputs, ids, strict=True)):
            raise RequestError(
                f"tokenizer.tokens.{token}: no input has this token, and no source is given; a source, such as "
                "{kind: zero} or {kind: model_token, model: …, token: …}, would be right"
            )
    return rules


def _sources(inputs: Sequence[Spoken], ids: Sequence[Mapping[str, int]], token: str, source: TokenSource) -> Sources:
    if source.model is None:
        return ()
    position = [each.name for each in inputs].index(source.model)
    held = inputs[position]
    wanted = token if source.token is None else source.token
    row = source.row if source.row is not None else ids[position].get(wanted)
    if row is None or not 0 <= row < held.rows:
        what = f"row {source.row} of {held.rows}" if source.row is not None else f"the token {wanted!r}"
        raise RequestError(f"tokenizer.tokens.{token}: {source.model} does not have {what}; a token of it is needed")
    return ((position, row),)
