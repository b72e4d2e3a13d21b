"""How every picture of the project looks, and how it becomes a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers and on light and dark pages alike
BETTER, WORSE, START, ACCENT = "#0072B2", "#D55E00", "#8c959f", "#009E73"
INK = "#1f2328"
INK_IN_SVG = "#010203"  # replaced by currentColor, so that a page's text colour holds in the picture too


@contextmanager
def style(ink: str) -> Iterator[None]:
    """Draw in the project's style and this text colour, whatever the user's matplotlib is set to."""
    settings = {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#8c959f",
        "grid.alpha": 0.25,
        "svg.fonttype": "none",
        "svg.hashsalt": "mats",  # the same picture has the same bytes
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "axes.titlecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "legend.frameon": False,
    }
    with mpl.rc_context({**mpl.rcParamsDefault, **settings, "backend": mpl.rcParams["backend"]}):
        yield


def as_png(figure: Figure) -> bytes:
    """The figure as PNG on white; the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def as_svg(figure: Figure) -> str:
    """The figure as SVG without background, in the text colour of whatever page holds it."""
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mats"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return buffer.getvalue().replace(INK_IN_SVG, "currentColor")
