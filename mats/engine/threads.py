"""How many threads torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, and give the others back.

    For work in pieces that stay in cache, and for models of a few thousand weights: there a second thread gains little
    (TIES on BERT-base took 3.9 s with one thread, 5.0 s with two), and on shared cores it waits longer than it works.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
