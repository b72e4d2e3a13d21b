"""Where the rows of a merged vocabulary come from, in numbers: for the report, and in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mats.checkpoints.vocabulary import VocabularyChoice
from mats.checkpoints.vocabulary_rows import RowPlan, TokenRows

SHOWN = 20  # tokens listed in the report


@dataclass(frozen=True)
class Provenance:
    """The rows of an output, counted.

    Attributes:
        source: whose tokens the output has.
        rows: of the output; `padding` of them stand for no token.
        shared: rows whose token base and all models have.
        from_base: rows that at least one model takes from the base.
        added: tokens that the source does not have.
        counts: model → its rows by where they come from: own, base, others, zero, mean.
        left_out: model → its tokens that the output does not have.
        borrowed: input without a tokenizer → whose it got.
        rows_of: input → rows of its own embedding.
    """

    source: str
    rows: int
    padding: int
    shared: int
    from_base: int
    added: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, tuple[str, ...]]
    rows_of: Mapping[str, int]
    borrowed: Mapping[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The whole in one line."""
        parts = [f"{self.shared:,} shared by all", f"{self.from_base:,} from the base where a model lacks the token"]
        parts += [f"{len(self.added):,} added"] if self.added else []
        parts += [f"{self.padding:,} without a token"] if self.padding else []
        lost = sum(map(len, self.left_out.values()))
        parts += [f"{lost:,} tokens of models left out"] if lost else []
        return f"vocabulary ({self.source}): {self.rows:,} rows: {', '.join(parts)}"

    def told(self) -> dict[str, Any]:
        """The entry `vocabulary` of report.json."""
        return {
            "source": self.source,
            "rows": self.rows,
            "padding": self.padding,
            "shared": self.shared,
            "from_base": self.from_base,
            "added": len(self.added),
            "added_tokens": list(self.added[:SHOWN]),
            "models": {
                name: {
                    "rows": self.rows_of[name],
                    **counts,
                    "left_out": len(self.left_out.get(name, ())),
                    "left_out_tokens": list(self.left_out.get(name, ())[:SHOWN]),
                    **({"tokenizer_of": self.borrowed[name]} if name in self.borrowed else {}),
                }
                for name, counts in self.counts.items()
            },
            "line": self.line,
        }


def provenance(
    names: Sequence[str],
    base: int | None,
    tables: Sequence[TokenRows],
    plan: RowPlan,
    output: TokenRows,
    choice: VocabularyChoice,
    added: tuple[str, ...],
    borrowed: Mapping[str, str],
) -> Provenance:
    """Count the rows of `plan`.

    Args:
        names: of the inputs.
        base: which of them is the base; None without one.
        tables: their vocabularies.
        plan: where each row of each comes from.
        output: the output's vocabulary.
        choice: what was asked for.
        added: the output's tokens beyond the source's.
        borrowed: inputs without a tokenizer, and whose they got.
    """
    named = sorted(set(output.tokens.values()))
    models = [index for index in range(len(names)) if index != base]
    counts = {names[index]: _counts(plan, index, base) for index in models}
    from_base = {row for index in models for row in named if _origin(plan, index, row, base) == "base"}
    left_out = {}
    for index in models:
        tokens = tables[index].tokens
        left_out[names[index]] = tuple(sorted(tokens.keys() - output.tokens.keys(), key=tokens.__getitem__))
    return Provenance(
        source=choice.source,
        rows=plan.rows,
        padding=len(plan.unnamed),
        shared=sum(all(own[row] >= 0 for own in plan.own) for row in named),
        from_base=len(from_base),
        added=added,
        counts=counts,
        left_out={name: tokens for name, tokens in left_out.items() if tokens},
        rows_of={name: table.rows for name, table in zip(names, tables, strict=True)},
        borrowed=borrowed,
    )


def _counts(plan: RowPlan, index: int, base: int | None) -> dict[str, int]:
    counts = {"own": 0, "base": 0, "others": 0, "zero": 0, "mean": 0}
    for row in range(plan.rows):
        counts[_origin(plan, index, row, base)] += 1
    return counts


def _origin(plan: RowPlan, index: int, row: int, base: int | None) -> str:
    """Where input `index` gets a row from."""
    if plan.own[index][row] >= 0:
        return "own"
    sources = plan.instead[row]
    if sources is None:
        return "mean"
    if not sources:
        return "zero"
    inputs = {source for source, _ in sources}
    if inputs == {index}:
        return "own"
    return "base" if inputs == {base} else "others"
