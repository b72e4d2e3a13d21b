"""The journal of a write in progress: which tensors are finished, and what their bytes must hash to.

One JSON line each, appended after the tensor's bytes were handed to the kernel. A process that is killed loses
nothing it handed over, so the line tells the truth. After a power failure the line may have survived and the bytes
not; that is what the checksum is for: a resumed run trusts only tensors whose bytes still match, so no write waits
for the disk before the very end.

A journal that is open for writing is locked, before a byte of it changes: where several processes write one output,
each has a journal of its own, and one whose companions were killed may live for a moment longer than they.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mats.errors import MatsError
from mats.files import explain_os_error, lock

VERSION = 1
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class Journal:
    """An append-only list of finished tensors, headed by the identity of the work that it belongs to."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._head = {"version": VERSION, "identity": identity}
        self._descriptor = -1

    def resume(self) -> dict[str, dict[str, Any]] | None:
        """The last line of each tensor, or None when there is no journal of this identity.

        A line without its end (the process died inside it) is dropped, and with it whatever follows.

        Raises:
            OutputExists: another process is writing it.
        """
        if not self.path.is_file():
            return None
        self._open(os.O_WRONLY)
        found = self.read()
        if found is None:
            self.close()
            return None
        entries, length = found
        self._cut(length)
        return entries

    def read(self) -> tuple[dict[str, dict[str, Any]], int] | None:
        """The last line of each tensor and the length of all whole lines; nothing is opened for writing."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        whole = content[: content.rfind(b"\n") + 1]
        entries: dict[str, dict[str, Any]] = {}
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if not lines or lines[0] != self._head:
                return None
            for line in lines[1:]:
                entries[line["name"]] = line
        except (ValueError, KeyError, TypeError):
            return None
        return entries, len(whole)

    def restart(self) -> None:
        """Begin an empty journal.

        Raises:
            OutputExists: another process is writing it.
        """
        self._open(os.O_WRONLY | os.O_CREAT)
        self._cut(0)
        self._append(self._head)

    def record(self, name: str, checksum: str, note: Any) -> None:
        """One more tensor is finished. `note` is any JSON value to be kept with it, or None."""
        entry = {"name": name, "checksum": checksum}
        self._append(entry if note is None else {**entry, "note": note})

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, flags: int) -> None:
        """Open and lock; the kernel lets go of the lock when the process ends, however it ends."""
        self.close()
        try:
            self._descriptor = os.open(self.path, flags | os.O_APPEND, 0o644)
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        try:
            lock(self._descriptor, self.path.parent)
        except MatsError:
            self.close()
            raise

    def _cut(self, length: int) -> None:
        try:
            os.ftruncate(self._descriptor, length)
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def _append(self, line: dict[str, Any]) -> None:
        data = (_ENCODER.encode(line) + "\n").encode()
        try:
            while data:  # a device that is nearly full takes a part, and says why with the next
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise explain_os_error(error, self.path) from error
