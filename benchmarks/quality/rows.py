"""The rows of the table: a merge each, with the settings among which unseen training examples choose, if any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Row:
    """One way to merge.

    Attributes:
        name: in the table.
        overrides: what `mats merge recipe.yaml` takes after it, without the chosen setting. Its `curvature.` keys say
            what is measured for it too.
        choice: a key and its values, among which the split `tuning` chooses; None: nothing is chosen.
        needs: `nothing` beside the models; `metadata`; or `data`, the tasks' examples at merge time.
        refresh: rounds of measuring the metadata once more with the merged weights.
        proxy: the kind of proxy that stands in for metadata; None: no proxy.
        slow: takes a minute or more beside the others, so that `--quick` goes without it.
    """

    name: str
    overrides: tuple[str, ...]
    choice: tuple[str, tuple[float, ...]] | None = None
    needs: str = "nothing"
    refresh: int = 0
    proxy: str | None = None
    slow: bool = False

    def candidates(self) -> tuple[Row, ...]:
        """The merges to try, with nothing left to choose."""
        if self.choice is None:
            return (self,)
        key, values = self.choice
        return tuple(replace(self, overrides=(*self.overrides, f"{key}={value:g}"), choice=None) for value in values)

    @property
    def curvature(self) -> tuple[str, ...]:
        """How its metadata are measured."""
        return tuple(part for part in self.overrides if part.startswith("curvature."))

    @property
    def file_name(self) -> str:
        """Of its answers. `mats` alone has rows that differ in their curvature; the names of others leave it out."""
        in_name = [
            part for part in self.overrides if part not in self.curvature or "merge.method=mats" in self.overrides
        ]
        label = "_".join(part.split(".", 1)[-1].replace("=", "-").replace("/", "-") for part in in_name)
        return f"{label}{'-proxies' if self.proxy else ''}{'-refreshed' * self.refresh}"


def measurements(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """How metadata are measured for these rows, each way once."""
    return list(dict.fromkeys(row.curvature for row in rows if row.needs != "nothing"))


def _method(name: str, *settings: str) -> tuple[str, ...]:
    return (f"merge.method={name}", *(f"merge.{setting}" for setting in settings))


# RegMean and Fisher merging were published with statistics at each model's own weights.
OWN_WEIGHTS = "curvature.position=1"
# Of the encoder alone: per-example gradients of the embeddings would take most of the time. They are averaged instead.
FISHER_CURVATURE = ("curvature.statistics=[diagonal]", "curvature.parameters=[bert.encoder.*]", OWN_WEIGHTS)

MATS = Row("mats", _method("mats"), needs="metadata")
"""Nothing is set: it is `method: mats` and what follows from that."""

ROWS: tuple[Row, ...] = (
    Row("pretrained body", _method("base")),
    Row("average", _method("average")),
    Row("task arithmetic", _method("task_arithmetic"), ("merge.scale", (0.2, 0.3, 0.4, 0.5))),
    Row("TIES", _method("ties"), ("merge.scale", (0.7, 1.0, 1.3, 1.6))),
    Row("Iso-C", _method("iso_c"), ("merge.scale", (1.5, 2.0, 2.5, 3.0))),
    Row("TSV-M", _method("tsv_m"), ("merge.scale", (0.7, 1.0, 1.3, 1.6))),
    Row("mats on proxies", _method("mats"), proxy="task_vector_gram", slow=True),
    Row("task arithmetic, scales from metadata", _method("task_arithmetic", "scale=auto"), needs="metadata", slow=True),
    Row("diagonal Fisher", (*_method("fisher"), *FISHER_CURVATURE), needs="metadata"),
    Row("RegMean", (*_method("regmean"), OWN_WEIGHTS), needs="metadata"),
    Row("mats, curvature at the models' own weights", (*_method("mats"), OWN_WEIGHTS), needs="metadata", slow=True),
    MATS,
    Row("mats, metadata measured again", _method("mats"), needs="data", refresh=1, slow=True),
)
"""Everything merged."""


def _with_two_values(row: Row) -> Row:
    """The middle of what it chooses among: there the full choices fell."""
    if row.choice is None:
        return row
    key, values = row.choice
    return replace(row, choice=(key, values[1:3]))


QUICK_ROWS: tuple[Row, ...] = tuple(_with_two_values(row) for row in ROWS if not row.slow)
"""To see that it runs; they read every kind of metadata: at the default position, at the own weights, and Fisher's."""
