"""Threads are given back, also when the work fails."""

from __future__ import annotations

import pytest
import torch

from mats.engine.threads import one_thread


def test_one_thread_inside_and_all_of_them_after() -> None:
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_threads_return_after_an_error() -> None:
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="failed inside"), one_thread():
        raise RuntimeError("failed inside")
    assert torch.get_num_threads() == 2
