"""The rows of the table: a merge each, with the settings among which unseen training examples choose, if any."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One way to merge.

    Attributes:
        name: in the table.
        overrides: what `mats merge recipe.yaml` takes after it, without the chosen setting.
        choice: a key and its values, among which the split `tuning` chooses; None: nothing is chosen.
        needs: `nothing` beside the models; `metadata`; or `data`, the tasks' examples at merge time.
        refresh: rounds of measuring the metadata once more with the merged weights.
    """

    name: str
    overrides: tuple[str, ...]
    choice: tuple[str, tuple[float, ...]] | None = None
    needs: str = "nothing"
    refresh: int = 0

    def candidates(self) -> list[tuple[str, ...]]:
        """The overrides of each merge to try."""
        if self.choice is None:
            return [self.overrides]
        key, values = self.choice
        return [(*self.overrides, f"{key}={value:g}") for value in values]


def _method(name: str, *settings: str) -> tuple[str, ...]:
    return (f"merge.method={name}", *(f"merge.{setting}" for setting in settings))


# Of the encoder alone: per-example gradients of the embeddings would take most of the time. They are averaged instead.
FISHER_CURVATURE = ("curvature.statistics=[diagonal]", "curvature.parameters=[bert.encoder.*]")

ROWS: tuple[Row, ...] = (
    Row("pretrained body", _method("base")),
    Row("average", _method("average")),
    Row("task arithmetic", _method("task_arithmetic"), ("merge.scale", (0.2, 0.3, 0.4, 0.5))),
    Row("TIES", _method("ties"), ("merge.scale", (0.7, 1.0, 1.3, 1.6))),
    Row("Iso-C", _method("iso_c"), ("merge.scale", (1.5, 2.0, 2.5, 3.0))),
    Row("TSV-M", _method("tsv_m"), ("merge.scale", (0.7, 1.0, 1.3, 1.6))),
    Row("task arithmetic, scales from metadata", _method("task_arithmetic", "scale=auto"), needs="metadata"),
    Row("diagonal Fisher", (*_method("fisher"), *FISHER_CURVATURE), needs="metadata"),
    Row("RegMean", _method("regmean"), needs="metadata"),
    Row("mats", _method("mats"), needs="metadata"),
    Row("mats, metadata measured again", _method("mats"), needs="data", refresh=1),
)
"""Everything merged. `mats` has no setting of its own here: it is `method: mats` and nothing else."""


@dataclass(frozen=True)
class Variant:
    """One setting of `mats` that could be the default: the ablation decides."""

    name: str
    overrides: tuple[str, ...]


_DEFAULT = ("tsv_m", 0.1, 0.0)  # start, damping, identity anchor
_OTHERS = (
    ("tsv_m", 0.01, 0.0),
    ("tsv_m", 0.3, 0.0),
    ("average", 0.01, 0.0),
    ("average", 0.1, 0.0),
    ("tsv_m", 0.0, 0.01),
    ("tsv_m", 0.0, 0.1),
    ("average", 0.0, 0.1),
)


def _variant(start: str, damping: float, anchor: float) -> Variant:
    pull = f"damping {damping:g}" if damping else f"identity anchor {anchor:g}"
    settings = (f"merge.init={start}", f"merge.damping={damping:g}", f"merge.anchor={anchor:g}")
    return Variant(f"{pull} from {start}", ("merge.method=mats", *settings))


VARIANTS: tuple[Variant, ...] = tuple(_variant(*choice) for choice in (_DEFAULT, *_OTHERS))
