"""One run, several results: the iterates of a solve, each as a complete checkpoint in `<output>/snapshots/<iteration>`.

They are written as the main output is, tensor by tensor and safe against kills, in a hidden folder beside it that moves
into the output when everything is complete. What no solve decides is copied from the main output at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import safe_open

from mats.checkpoints import CheckpointWriter
from mats.engine.inputs import MergeInputs
from mats.engine.plan import MergePlan
from mats.engine.processes import Processes
from mats.engine.shares import written_together
from mats.files import write_json_atomically
from mats.reporting.report import without_non_finite

OWN_FILES = ("report.json", "report.html", "README.md", "run.json", "layers.png", "layers.svg")
"""What tells about the main result, and would be wrong in a snapshot."""


class Snapshots:
    """The writers of a merge's snapshots; without any, everything here does nothing. Use as a context manager.

    Args:
        inputs, plan: of the merge.
        main: the writer of the main output, whose lock guards these as well.
        identity: of the merge.
        processes: those that write them together.
    """

    def __init__(
        self,
        inputs: MergeInputs,
        plan: MergePlan,
        main: CheckpointWriter,
        identity: str,
        processes: Processes | None = None,
    ) -> None:
        processes = processes or Processes()
        self._main = main
        self.staging = staging_folder(main.output)
        self.iterations = iterations_of(plan)
        self._writers: dict[int, CheckpointWriter] = {}
        if not self.iterations and processes.is_first:
            shutil.rmtree(self.staging, ignore_errors=True)
        for iteration in self.iterations:
            make = partial(_open_part, self.staging / str(iteration), plan, f"{identity} after {iteration}", inputs)
            self._writers[iteration] = written_together(processes, make)

    def hold(self, names: Sequence[str]) -> bool:
        """Whether every snapshot has all of `names`."""
        return all(name in writer.done for writer in self._writers.values() for name in names)

    def writer(self, iteration: int) -> CheckpointWriter:
        """Where the snapshot after `iteration` is written."""
        return self._writers[iteration]

    def join(self, parts: int) -> None:
        """Count as finished what other processes wrote."""
        for writer in self._writers.values():
            writer.join(parts)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Complete every snapshot from the main output, whose folder must be complete, and move all of them into it."""
        if not self._writers:
            return
        for iteration, writer in self._writers.items():
            self._copy_weights(writer)
            for entry in sorted(self._main.folder.iterdir()):
                if entry.suffix != ".safetensors" and entry.name not in OWN_FILES:
                    _copy(entry, writer.folder / entry.name)
            notes = writer.notes
            layers = [notes.get(entry["name"], entry) for entry in report["layers"]]
            told = without_non_finite({**report, "snapshot": iteration, "layers": layers})
            write_json_atomically(writer.folder / "report.json", told)
            writer.publish()
        self.staging.rename(self._main.folder / "snapshots")

    def discard(self) -> None:
        """Remove all of it: the same command would meet the same error."""
        self.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def close(self) -> None:
        """Close the writers; what is not published stays for a later run."""
        for writer in self._writers.values():
            writer.abandon()

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _copy_weights(self, writer: CheckpointWriter) -> None:
        """The tensors that no solve decides, as the main output has them."""
        for shard in sorted(self._main.folder.glob("*.safetensors")):
            with safe_open(shard, framework="pt") as file:  # type: ignore[no-untyped-call]
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    if name not in writer.done:
                        writer.write(name, file.get_tensor(name))


def _open_part(folder: Path, plan: MergePlan, identity: str, inputs: MergeInputs, part: int) -> CheckpointWriter:
    """The writer of one snapshot, as one of the processes that write it."""
    return CheckpointWriter(
        folder,
        plan.tensors,
        identity=identity,
        max_shard_bytes=inputs.request.max_shard_bytes,
        overwrite=True,
        weights_name="adapter_model" if inputs.kind == "ia3" else "model",
        part=part,
    )


def iterations_of(plan: MergePlan) -> tuple[int, ...]:
    """The iterations at which any system of the plan keeps its iterate, rising."""
    kept = {count for group in plan.groups for system in group.systems for count in system.settings.solver.snapshots}
    return tuple(sorted(kept))


def staging_folder(output: Path) -> Path:
    """Where the snapshots of `output` wait until it is complete."""
    return output.parent / f".{output.name}.snapshots"


def _copy(source: Path, target: Path) -> None:
    """A companion file or folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
