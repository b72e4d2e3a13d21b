"""The vocabularies of one merge: compared, or brought to one by token, before anything else looks at the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, TensorInfo
from mats.checkpoints.vocabulary import VocabularyChoice
from mats.checkpoints.vocabulary_files import OutputVocabulary
from mats.checkpoints.vocabulary_heads import with_heads
from mats.checkpoints.vocabulary_rows import RowPlan, TokenRows, disagreement, plan_rows
from mats.checkpoints.vocabulary_tensors import counterpart, vocabulary_tensors
from mats.checkpoints.vocabulary_tokens import tokenizer_files
from mats.checkpoints.vocabulary_view import with_vocabulary
from mats.engine.vocabulary_output import Decided, decide, resolved_rules
from mats.engine.vocabulary_reading import (
    Spoken,
    check_agreement,
    known_tokens,
    named_tokens,
    require_embeddings,
    speak,
)
from mats.engine.vocabulary_report import Provenance, provenance
from mats.errors import InputsMismatch


@dataclass(frozen=True)
class CommonVocabulary:
    """What the inputs of a merge have become: checkpoints that agree row by row.

    Attributes:
        base, models: as they are merged; those that agreed already are as they were.
        notes: what the user should know, a sentence each.
        provenance: where every row comes from; None where vocabularies were only compared.
        files: what the output's tokenizer and configuration must say; None likewise.
        tokens: the output's tokens; None likewise.
    """

    base: Checkpoint | None
    models: tuple[Checkpoint, ...]
    notes: tuple[str, ...] = ()
    provenance: Provenance | None = None
    files: OutputVocabulary | None = None
    tokens: TokenRows | None = None
    plan: RowPlan | None = None

    def own_rows(self, index: int) -> Tensor | None:
        """For each row of the output model `index`'s own, -1 where it has none; None where rows are as on disk."""
        if self.plan is None:
            return None
        own = self.plan.own[index if self.base is None else index + 1]
        return torch.tensor(own)

    @cached_property
    def named_tensors(self) -> frozenset[str]:
        """Tensors of the output, under any input's name for them, whose rows are tokens."""
        inputs = (*self.models, *([] if self.base is None else [self.base]))
        return frozenset(name for each in inputs for name in vocabulary_tensors(each))

    def check_measured(self, checkpoint: Checkpoint) -> None:
        """Refuse statistics of another checkpoint whose tokens are in another order than the output's.

        Raises:
            InputsMismatch: naming the first such token.
        """
        files = tokenizer_files(checkpoint.path, checkpoint.config)
        if self.tokens is None or files is None:
            return
        odd = disagreement(self.tokens, TokenRows(files.tokens, self.tokens.rows))
        if odd is not None:
            raise InputsMismatch(
                f"measured_on {checkpoint.path}: row {odd[0]} is the token {odd[2]!r}, in the output {odd[1]!r}; a "
                "checkpoint with the output's vocabulary would be right"
            )

    def as_stored(self, tensors: Sequence[TensorInfo], reference: Checkpoint | None) -> list[TensorInfo]:
        """The output's tensors in the dtypes that the reference has on disk, where its view needs wider ones."""
        if self.plan is None or reference is None:
            return list(tensors)
        stored = {
            name: reference.tensors[own].dtype
            for name in self.named_tensors
            if (own := counterpart(name, reference)) is not None
        }
        return [TensorInfo(info.name, stored.get(info.name, info.dtype), info.shape) for info in tensors]


def common_vocabulary(
    names: Sequence[str], models: Sequence[Checkpoint], base: Checkpoint | None, choice: VocabularyChoice | None
) -> CommonVocabulary:
    """Compare the vocabularies of base and models, or bring them to the one that `choice` describes.

    Args:
        names: of the models.
        models: their checkpoints.
        base: the base, or None.
        choice: None: they must agree.

    Raises:
        InputsMismatch: they differ, or a tokenizer that is needed is not there.
        RequestError: an adapter, a model without embeddings, a row that does not exist.
        CheckpointCorrupt: a tokenizer that cannot be read.
    """
    checkpoints, notes = under_one_head([*([] if base is None else [base]), *models])
    named = list(zip([*([] if base is None else ["base"]), *names], checkpoints, strict=True))
    spoken = speak(named)
    if choice is None:
        if len(spoken) > 1:
            notes += check_agreement(spoken)
        return _result(checkpoints, base, notes)
    require_embeddings(named, spoken, choice.source)
    ids, borrowed = known_tokens(spoken, choice.source)
    decided = decide(spoken, ids, choice)
    tables = [each.token_rows(own) for each, own in zip(spoken, ids, strict=True)]
    of_base = None if base is None else 0
    plan = plan_rows(
        decided.tokens,
        tables,
        base=of_base,
        rules=resolved_rules(spoken, ids, choice),
        mean_padding=choice.pad_to_multiple_of is not None,
    )
    views = [with_vocabulary(checkpoints, plan, index) for index in range(len(checkpoints))]
    found = provenance(
        [each.name for each in spoken], of_base, tables, plan, decided.tokens, choice, decided.added, borrowed
    )
    return _result(views, base, [*notes, *_notes(spoken, ids, found)], found, decided, plan)


def _result(
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None,
    notes: Sequence[str],
    found: Provenance | None = None,
    decided: Decided | None = None,
    plan: RowPlan | None = None,
) -> CommonVocabulary:
    first, *others = checkpoints
    return CommonVocabulary(
        base=None if base is None else first,
        models=tuple(others if base is not None else checkpoints),
        notes=tuple(notes),
        provenance=found,
        files=None if decided is None else decided.files,
        tokens=None if decided is None else decided.tokens,
        plan=plan,
    )


def under_one_head(checkpoints: Sequence[Checkpoint]) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """Tied and untied inputs together: see `mats.checkpoints.vocabulary_heads`."""
    shown, given = with_heads(checkpoints)
    notes = [
        f"{', '.join(tied)}: no {head} of its own; its embedding, to which it ties its head, stands for it, and the "
        "result has a head of its own"
        for head, tied in given.items()
    ]
    return shown, notes


def _notes(spoken: Sequence[Spoken], ids: Sequence[dict[str, int]], found: Provenance) -> list[str]:
    notes = [found.line]
    for name, tokens in found.left_out.items():
        notes.append(f"tokens of {name} that the output does not have: {named_tokens(tokens)}; vocab: union keeps them")
    for name, lender in found.borrowed.items():
        notes.append(
            f"{name} has no tokenizer; its {found.rows_of[name]} rows are taken to be in the order of {lender}"
        )
    for each, own in zip(spoken, ids, strict=True):
        beyond = [token for token, row in own.items() if row >= each.rows]
        if beyond and each.name not in found.borrowed:
            notes.append(f"{each.name}: tokens without a row in its embedding: {named_tokens(beyond)}")
    return notes
