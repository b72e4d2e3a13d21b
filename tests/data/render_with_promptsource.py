"""Writes promptsource_digests.json: what promptsource 0.2.3 itself makes of `sample_rows.ROWS`, one digest per text.

Run it where promptsource's own code can be imported (it needs pandas, Jinja, PyYAML and the pkg_resources of setuptools
below 80), with the unpacked source archive on the path:

    PYTHONPATH=<promptsource-0.2.3> python tests/data/render_with_promptsource.py

Draws take their first item there, so that the texts can be compared.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DIGESTS = HERE / "promptsource_digests.json"


def digest(prompt: str, target: str | None, choices: list[str] | None) -> str:
    """16 hex digits of one rendered row."""
    text = json.dumps([prompt, target, choices], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
    """Render every template of every vendored dataset on every sample row."""
    from promptsource.templates import DatasetTemplates
    from sample_rows import ROWS

    random.choice = lambda items: items[0]
    found: dict[str, Any] = {}
    for name, rows in ROWS.items():
        dataset, _, config = name.partition("/")
        found[name] = {}
        for template in DatasetTemplates(dataset, config or None).templates.values():
            texts = []
            for row in rows:
                parts = template.apply(dict(row))
                target = parts[1] if len(parts) > 1 else None
                texts.append(digest(parts[0], target, template.get_answer_choices_list(row)))
            found[name][template.name] = texts
    DIGESTS.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    print(sum(len(templates) for templates in found.values()), "templates")


if __name__ == "__main__":
    main()
