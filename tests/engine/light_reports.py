"""report.json alone, without the page and plots, which take far longer than the merge of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_light_report(report: dict[str, Any], folder: Path, **_: object) -> list[str]:
    """In the place of `mats.reporting.write_report`."""
    (folder / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True))
    return ["report.json"]
