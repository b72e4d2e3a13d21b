"""A tokenizer with more tokens: those of other tokenizers appended to one, under ids that rows can be counted on for.

Ordinary tokens go into the model of the tokenizer (with the merges that make them, for BPE), so that text is still cut
into pieces and no piece is matched inside a word; tokens that were added to a tokenizer stay added, special or not.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mats.checkpoints.vocabulary_tokens import tokens_of
from mats.errors import InputsMismatch

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
"""How a token is matched that no tokenizer says anything about."""


@dataclass(frozen=True)
class NewToken:
    """A token to be appended.

    Attributes:
        content: its text.
        added: how it is matched, where it is an added token (as `tokenizer.json` says it); None for an ordinary one.
        score: its log probability in a Unigram model.
    """

    content: str
    added: Mapping[str, Any] | None = None
    score: float = 0.0


def extended(
    definition: Mapping[str, Any], first: int, new: Sequence[NewToken], others: Sequence[Mapping[str, Any]], where: Path
) -> str:
    """The text of a `tokenizer.json` with `new` tokens from id `first` on.

    Args:
        definition: the tokenizer to extend, as parsed.
        first: id of the first new token.
        new: the tokens, in order.
        others: the definitions that they come from; BPE takes their merges after its own.
        where: of the tokenizer, for messages.

    Raises:
        InputsMismatch: the tokenizer would give a token another id.
    """
    tokenizer = copy.deepcopy(dict(definition))
    ids = {token.content: first + number for number, token in enumerate(new)}
    if any(token.added is None for token in new):
        _into_model(tokenizer, new, ids)
        if tokenizer["model"].get("type") == "BPE":
            _append_merges(tokenizer["model"], others)
    entries = [
        {"id": ids[token.content], "content": token.content, **PLAIN, **_flags(token.added)}
        for token in new
        if token.added is not None
    ]
    tokenizer["added_tokens"] = [*(tokenizer.get("added_tokens") or []), *entries]
    text = json.dumps(tokenizer, ensure_ascii=False, indent=2) + "\n"
    found = tokens_of(text, where)
    for token, expected in ids.items():
        if found.get(token) != expected:
            raise InputsMismatch(
                f"{where}: this tokenizer would give the new token {token!r} the id {found.get(token)}, its row is "
                f"{expected}; vocab: base, or models with one tokenizer, would be right"
            )
    return text


def added_tokens(definition: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Content → entry of the tokens added to a tokenizer."""
    entries = (definition or {}).get("added_tokens") or []
    return {str(entry["content"]): dict(entry) for entry in entries}


def scores(definition: Mapping[str, Any] | None) -> dict[str, float]:
    """Content → log probability, for a Unigram tokenizer; empty for others."""
    vocabulary = ((definition or {}).get("model") or {}).get("vocab")
    return {str(token): float(score) for token, score in vocabulary} if isinstance(vocabulary, list) else {}


def _flags(added: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: (added or {}).get(key, default) for key, default in PLAIN.items()}


def _into_model(tokenizer: dict[str, Any], new: Sequence[NewToken], ids: Mapping[str, int]) -> None:
    """Put tokens into the model's own vocabulary; those added earlier come first, so that every id stays what it is."""
    vocabulary = tokenizer["model"]["vocab"]
    earlier = [(str(entry["content"]), int(entry["id"])) for entry in tokenizer.get("added_tokens") or []]
    if isinstance(vocabulary, dict):
        for content, number in earlier:
            vocabulary.setdefault(content, number)
        vocabulary.update(ids)
        return
    known = {content for content, _ in vocabulary}
    lowest = min((float(score) for _, score in vocabulary), default=0.0)
    for content, _ in sorted(earlier, key=lambda entry: entry[1]):
        if content not in known:
            vocabulary.append([content, lowest])
    vocabulary.extend([token.content, min(token.score, 0.0) if token.added is None else lowest] for token in new)


def _append_merges(model: dict[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    """Merges of other BPE tokenizers whose parts and result are tokens here, after the tokenizer's own."""
    own = model.get("merges") or []
    in_text = bool(own) and isinstance(own[0], str)
    known = {tuple(_parts(merge)) for merge in own}
    for other in others:
        foreign = other.get("model") or {}
        for merge in (foreign.get("merges") or []) if foreign.get("type") == "BPE" else []:
            parts = tuple(_parts(merge))
            if parts not in known and all(part in model["vocab"] for part in (*parts, "".join(parts))):
                known.add(parts)
                own.append(" ".join(parts) if in_text else list(parts))
    model["merges"] = own


def _parts(merge: str | Sequence[str]) -> Sequence[str]:
    return merge.split(" ") if isinstance(merge, str) else merge
