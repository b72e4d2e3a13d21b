"""The settings of `mats` that could be its defaults: the ablations decide among them."""

from __future__ import annotations

from rows import Row


def _variant(
    *,
    position: float = 0.5,
    damping: float = 0.1,
    start: str = "tsv_m",
    scaling: str = "balanced",
    labels: str | None = None,
    examples: int | None = None,
) -> Row:
    """All that varies is named, so that another default makes no other variant; None: as the recipe has it."""
    settings = [f"merge.init={start}", f"merge.damping={damping:g}", f"merge.scaling={scaling}"]
    settings += [f"curvature.position={position:g}"]
    settings += [f"curvature.labels={labels}"] if labels else []
    settings += [f"curvature.examples={examples}"] if examples else []
    name = f"position {position:g}, damping {damping:g}, from {start}, {scaling}"
    name += (f", {labels} labels" if labels else "") + (f", {examples} examples" if examples else "")
    return Row(name, ("merge.method=mats", *settings), needs="metadata")


POSITIONS = (0.3, 0.5, 0.7, 1.0)

VARIANTS: tuple[Row, ...] = (
    *(_variant(position=position) for position in POSITIONS),
    *(_variant(damping=damping) for damping in (0.03, 0.3)),
    _variant(start="average"),
    *(_variant(scaling=scaling) for scaling in ("examples", "unit")),
    _variant(labels="sampled"),
    _variant(examples=400),
)
"""On the benchmark's tasks: one thing changed at a time."""

DIGITS_VARIANTS: tuple[Row, ...] = (
    *(_variant(position=position, damping=damping) for damping in (0.1, 0.3) for position in POSITIONS),
    *(_variant(scaling=scaling) for scaling in ("examples", "unit")),
)
"""On the digits, where a solution that goes too far is ruined: what holds it back, and where it is measured."""
