"""Bringing vocabularies together holds a few tensors, whatever the number of models and the order of their tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WORDS, WIDTH = 20_000, 384
TENSOR = 4 * WORDS * WIDTH


def test_r19_vocabulary_merge_within_a_few_tensors(tmp_path: Path) -> None:
    """Two and four models in random orders, a tenth of the words missing in each; their weights are 6 and 10 tensors.

    Held are the base's, one model's and the merged tensor. The rest is tokens and where their rows come from: a few
    hundred bytes a word and model.
    """
    script = Path(__file__).with_name("peak_of_vocabulary.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    arguments = [sys.executable, str(script), str(tmp_path), str(WORDS), str(WIDTH), "2", "4"]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr[-2000:]
    two, four = map(int, finished.stdout.split())
    assert two < 3 * TENSOR + 3 * 700 * WORDS, (two, TENSOR)
    assert four - two < 2 * 700 * WORDS, (two, four, TENSOR)
