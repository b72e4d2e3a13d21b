"""Everything a merge leaves beside its weights to explain itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mats.files import write_bytes_atomically, write_json_atomically
from mats.reporting.card import model_card
from mats.reporting.layer_plot import plot_layers
from mats.reporting.page import render_page
from mats.reporting.plots import INK_IN_SVG, as_png, as_svg
from mats.reporting.report import RunInfo, validate_report, without_non_finite


def write_report(
    report: Mapping[str, Any],
    folder: Path,
    *,
    run: RunInfo | Mapping[str, Any] | None = None,
    title: str = "Merged model",
) -> list[str]:
    """Write report.json, report.html, README.md, and layers.svg and layers.png where layers were solved.

    The same report gives the same bytes. `run` is written apart, as run.json, since it differs from run to run.

    Args:
        report: a `mats.reporting.report.Report`; numbers that are not finite become null.
        folder: where the files go; it exists.
        run: what differs from run to run.
        title: heading of the model card.

    Returns:
        The names of the files written.

    Raises:
        RequestError: `report` is not a report.
        OutOfSpace, WorkFailed: from the disk.
    """
    plain = without_non_finite(report)
    checked = validate_report(plain)
    contents: dict[str, bytes] = {}
    picture = None
    if (figure := plot_layers(checked)) is not None:
        contents["layers.png"] = as_png(figure)
        in_page = plot_layers(checked, ink=INK_IN_SVG)
        assert in_page is not None
        picture = as_svg(in_page)
        contents["layers.svg"] = picture.encode()
    contents["report.html"] = render_page(checked, picture).encode()
    contents["README.md"] = model_card(checked, title=title, has_plot=picture is not None).encode()
    for name, content in contents.items():
        write_bytes_atomically(folder / name, content)
    write_json_atomically(folder / "report.json", plain)
    if run is not None:
        write_json_atomically(folder / "run.json", without_non_finite(run))
    return [*contents, "report.json", *(["run.json"] if run is not None else [])]
