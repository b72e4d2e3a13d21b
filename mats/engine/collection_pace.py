"""How often the partial sums of a collection are saved."""

from __future__ import annotations

import time

from mats.engine.collection_request import CollectionRequest

SAVING_SHARE = 0.1  # of the time at most goes into saving partial sums


class Pace:
    """When partial sums are saved: by batches or by the clock, never so often that saving costs more than its share."""

    def __init__(self, request: CollectionRequest) -> None:
        self._batches = request.checkpoint_batches
        self._wait = self._seconds = request.checkpoint_seconds
        self._since = time.monotonic()

    def due(self, done: int, *, last: bool) -> bool:
        """Whether to save after batch `done`; after the last one the sums of the pass are complete."""
        if last:
            return False
        if self._batches is not None:
            return done % self._batches == 0
        return time.monotonic() - self._since >= self._wait

    def saving(self) -> None:
        """Saving begins."""
        self._since = time.monotonic()

    def saved(self) -> None:
        """Saving has ended; a long one makes the next one later."""
        now = time.monotonic()
        self._wait = max(self._seconds, (now - self._since) / SAVING_SHARE)
        self._since = now
