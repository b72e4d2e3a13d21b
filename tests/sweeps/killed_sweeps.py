"""Run by test_sweep_running in a process of its own: one sweep killed at many moments, each run taken up by the next.

Usage: python killed_sweeps.py SWEEP_FILE. Every run is a forked child, forked before torch has started a thread. Prints
how each child ended and which points were finished then; ends with status 0 when the last one went through.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert

import mats.engine
import mats.evaluation
from mats.reporting import sweep_writer, writer
from mats.sweeps import load_sweep, run_sweep, running, working
from mats.sweeps.folder import PointFolder


def dying(action: Callable[..., Any], count: int, *, before: bool = False) -> Callable[..., Any]:
    """`action`, with SIGKILL to this process after (or before) its `count`-th call."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        value = action(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    return call


def arm(moment: str) -> None:
    """Prepare this process to die at a moment."""
    if moment == "merged, nothing handed out":
        working.hand_out = dying(working.hand_out, 3, before=True)
    elif moment == "scores of a point, not recorded":
        PointFolder.write_outcome = dying(PointFolder.write_outcome, 1, before=True)
    elif moment == "two points recorded":
        PointFolder.write_outcome = dying(PointFolder.write_outcome, 2)
    elif moment == "selected, nothing written":
        running.write_results = dying(running.write_results, 1, before=True)


MOMENTS = (
    "merged, nothing handed out",
    "scores of a point, not recorded",
    "two points recorded",
    "selected, nothing written",
    "never",
)


def in_child(path: Path, moment: str) -> int:
    """Run the sweep in a child that dies at `moment`; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        arm(moment)
        run_sweep(load_sweep(path))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(path: Path) -> None:
    """Die at every moment in turn, then finish."""
    assert all((mats.engine, mats.evaluation, transformers)), "imported once, so that children need not"
    writer.plot_layers = lambda *_arguments, **_options: None  # most of the time of a tiny merge, tested elsewhere
    sweep_writer._plots = lambda _results: []
    points = load_sweep(path).output / "points"
    for moment in MOMENTS:
        code = in_child(path, moment)
        finished = sorted(found.parent.name for found in points.glob("*/result.json"))
        print(f"{moment}|{code}|{','.join(finished)}", flush=True)
        assert code == (0 if moment == "never" else -signal.SIGKILL), moment


if __name__ == "__main__":
    main(Path(sys.argv[1]))
