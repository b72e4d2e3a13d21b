"""From tokens to rows: which row of which model each row of the output's embedding is made of. Pure bookkeeping.

For each row of the output and each input (base and models): its own row for that token, if it has the token; else the
base's row; else, of the models that have it, the only one's row, or the mean of theirs. Rows without a token (padding)
are matched by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Sources: TypeAlias = "tuple[tuple[int, int], ...] | None"
"""(input, its row), to be averaged; empty: zeros; None: the mean of the other rows."""


@dataclass(frozen=True)
class TokenRows:
    """One vocabulary: token → row, for the tokens that have a row, and the number of rows, padding included."""

    tokens: Mapping[str, int]
    rows: int

    @property
    def next_row(self) -> int:
        """The row after the last token's."""
        return max(self.tokens.values(), default=-1) + 1


class Piece(NamedTuple):
    """`length` rows from `start` on, made of as many consecutive rows of each source."""

    start: int
    length: int
    sources: Sources


@dataclass(frozen=True)
class RowPlan:
    """Where the rows of every input come from.

    Attributes:
        rows: of the output.
        own: for each input, its own row for each row of the output; -1 where it has none, or must not use it.
        instead: row of the output → what an input without a row of its own gets.
        forced: rows that every input gets from `instead`.
        unnamed: rows of the output without a token.
    """

    rows: int
    own: tuple[tuple[int, ...], ...]
    instead: Mapping[int, Sources]
    forced: frozenset[int]
    unnamed: frozenset[int]

    def is_identity(self, index: int, rows: int) -> bool:
        """Whether input `index`, of so many rows, stays as it is."""
        return rows == self.rows and self.own[index] == tuple(range(rows))

    def pieces(self, index: int) -> list[Piece]:
        """What the rows of input `index` are made of, in order, in as few pieces as can be."""
        found: list[Piece] = []
        for row, own in enumerate(self.own[index]):
            sources = ((index, own),) if own >= 0 else self.instead[row]
            if found and _continues(found[-1], sources):
                found[-1] = found[-1]._replace(length=found[-1].length + 1)
            else:
                found.append(Piece(row, 1, sources))
        return found


def plan_rows(
    output: TokenRows,
    inputs: Sequence[TokenRows],
    *,
    base: int | None,
    rules: Mapping[str, tuple[Sources, bool]],
    mean_padding: bool = False,
) -> RowPlan:
    """Match the inputs' rows to the output's by token.

    Args:
        output: the output's vocabulary.
        inputs: base and models.
        base: which of the inputs is the base; None without one.
        rules: token → (its sources, whether every input gets them).
        mean_padding: rows without a token become the mean of the others in place of staying as they are.
    """
    unnamed = frozenset(range(output.rows)) - set(output.tokens.values())
    own = [own_rows(output, table, unnamed=frozenset() if mean_padding else unnamed) for table in inputs]
    instead: dict[int, Sources] = {}
    forced = set()
    for token, (sources, force) in rules.items():
        row = output.tokens[token]
        instead[row] = sources
        if force:
            forced.add(row)
    for row in range(output.rows):
        held = [(index, rows[row]) for index, rows in enumerate(own) if rows[row] >= 0]
        if len(held) < len(own) and row not in instead:
            of_base = [source for source in held if source[0] == base]
            instead[row] = tuple(of_base or held) or None
    for rows in own:
        for row in forced:
            rows[row] = -1
    return RowPlan(output.rows, tuple(map(tuple, own)), instead, frozenset(forced), unnamed)


def own_rows(output: TokenRows, table: TokenRows, *, unnamed: frozenset[int]) -> list[int]:
    """For each row of the output the row of `table` for the same token, or -1; `unnamed` rows are matched by number."""
    own = [-1] * output.rows
    for token, row in output.tokens.items():
        at = table.tokens.get(token)
        if at is not None and own[row] < 0:
            own[row] = at
    named = set(table.tokens.values())
    for row in unnamed:
        if row < table.rows and row not in named:
            own[row] = row
    return own


def disagreement(first: TokenRows, second: TokenRows) -> tuple[int, str, str] | None:
    """The first row that stands for different tokens in two vocabularies, with its token in each; None if none does.

    A row with a token in one of them alone is no disagreement.
    """
    agreed = {row for token, row in second.tokens.items() if first.tokens.get(token) == row}
    names = {row: token for token, row in first.tokens.items() if row not in agreed}
    rows = [(row, names[row], token) for token, row in second.tokens.items() if row in names]
    return min(rows, default=None)


def _continues(piece: Piece, sources: Sources) -> bool:
    """Whether `sources` are the rows that follow those of `piece`."""
    if piece.sources is None or sources is None:
        return piece.sources is sources
    return len(sources) == len(piece.sources) and all(
        index == other and row == start + piece.length
        for (index, row), (other, start) in zip(sources, piece.sources, strict=True)
    )
