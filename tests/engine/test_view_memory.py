"""Models computed as they are read (sparsified, of another vocabulary) cost a tensor, not a model, as planned."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from peak_of_views import EMBEDDING, WIDTH

LAYER = 4 * WIDTH * WIDTH


@pytest.mark.parametrize("kind", ["union", "random", "della"])
def test_r19_memory_budget_with_views(tmp_path: Path, kind: str) -> None:
    """Twenty layers more raise the peak by less than five; the plan's estimate holds to a tenth."""
    script = Path(__file__).with_name("peak_of_views.py")
    roots = [str(folder) for folder in (script.parent, script.parents[1] / "checkpoints")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*roots, *filter(None, [environment.get("PYTHONPATH")])])
    arguments = [sys.executable, str(script), str(tmp_path), kind, "4", "24"]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr[-2000:]
    (few, _), (many, planned) = (map(int, line.split()) for line in finished.stdout.splitlines())
    assert many - few < 5 * LAYER, (few, many)
    assert few > EMBEDDING  # what is measured is the merge
    assert many < 1.1 * planned, (many, planned)
