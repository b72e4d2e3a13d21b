"""Run by test_merge_resume in a process of its own: merges killed at many moments, each taken up by the next.

Usage: python killed_merges.py FAMILY_FOLDER OUTPUT METHOD. Every merge runs in a forked child, forked before torch has
started a thread. Prints what each child did; ends with status 0 when the last one finished by itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from mats.checkpoints import CheckpointWriter
from mats.engine import Heads, MergeRequest, ModelInput, merge, merging
from mats.methods import AverageSettings, MatsSettings, TiesSettings

METHODS = {
    "mats": MatsSettings(init=TiesSettings(density=0.3)),
    "ties": TiesSettings(density=0.3),
    "heads": AverageSettings(),  # of the bodies
}


def request(root: Path, output: Path, method: str) -> MergeRequest:
    """Three models, whatever the method; a group of one layer each, so that a kill falls between groups."""
    models = tuple(ModelInput(f"task{i}", str(root / f"model{i}"), 1.0, root / f"store{i}") for i in range(3))
    heads = Heads(source="task1") if method == "heads" else None
    base = str(root / "base")
    return MergeRequest(models, METHODS[method], output, base, heads=heads, device="cpu", memory_budget=400_000)


def die_after(count: int) -> None:
    """SIGKILL this process when `count` tensors are written."""
    written = 0
    original = CheckpointWriter.write

    def write(self: CheckpointWriter, *args: object, **kwargs: object) -> None:
        nonlocal written
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        written += 1
        if written == count:
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointWriter.write = write  # type: ignore[method-assign]


def die_while_reporting() -> None:
    """SIGKILL this process when everything is written but the report, of which a part is."""

    def write_report(report: object, folder: Path, **_: object) -> None:
        (folder / "report.json").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)

    merging.write_report = write_report  # type: ignore[assignment]


def light_report(report: object, folder: Path, **_: object) -> None:
    """report.json alone: the plots of many layers take far longer than their merge."""
    (folder / "report.json").write_text(json.dumps(report, indent=2))


def in_child(root: Path, output: Path, method: str, moment: int | str | None) -> int:
    """Merge in a child that dies at `moment`; its wait status."""
    child = os.fork()
    if child == 0:
        if method != "ties":
            merging.write_report = light_report  # type: ignore[assignment]
        if isinstance(moment, int):
            die_after(moment)
        elif moment == "report":
            die_while_reporting()
        merge(request(root, output, method))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Die after 1, 3, 10 and 25 tensors and while reporting, then finish."""
    root, output, method = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for moment in (1, 3, 10, 15, "report"):
        status = in_child(root, output, method, moment)
        assert status == -signal.SIGKILL, f"the child at {moment} ended with {status}"
        assert not output.exists(), f"killed at {moment}, the output has its final name"
    assert in_child(root, output, method, None) == 0


if __name__ == "__main__":
    main()
