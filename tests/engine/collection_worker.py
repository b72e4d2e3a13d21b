"""A child process that measures on demand, for tests that kill it.

It imports everything once and forks a worker for each line on its standard input, so a run costs no start-up. A line
is "<folder> <memory budget> <pause after each batch in seconds>"; the worker prints its process id, `step` at every
step of progress and `done` at its end; the parent then prints `exit <wait status>`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from collection_cases import vit_request

from mats.curvature import CollectionSettings
from mats.engine.collection import save_metadata
from mats.progress import Silent

EVERY_STATISTIC = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal", "block"))


class Slow(Silent):
    """Says each step, then pauses."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def advance(self, steps: int = 1) -> None:
        print("step", flush=True)
        time.sleep(self.pause)


def measure(folder: str, budget: str, pause: str) -> None:
    print(os.getpid(), flush=True)
    request = vit_request(
        Path(folder), settings=EVERY_STATISTIC, checkpoint_batches=1, memory_budget=int(budget), overwrite=False
    )
    save_metadata(request, Slow(float(pause)))
    print("done", flush=True)


def main() -> None:
    import transformers.models.vit.modeling_vit  # noqa: F401  (before the first fork: it takes seconds)

    print("ready", flush=True)
    for line in sys.stdin:
        worker = os.fork()
        if worker == 0:
            measure(*line.split())
            os._exit(0)
        print("exit", os.waitpid(worker, 0)[1], flush=True)


if __name__ == "__main__":
    main()
