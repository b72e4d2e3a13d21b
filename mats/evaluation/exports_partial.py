"""Answers that a run has finished so far, in a hidden folder beside its output, so that a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mats.errors import OutputExists
from mats.evaluation.exports_decoding import KeyedText
from mats.files import exclusive, explain_os_error, write_json_atomically


class PartialAnswers:
    """The folder `.<output>.partial/`: `settings.json` says what is asked, `answers.jsonl` grows line by line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "answers.jsonl"
        self.finished: dict[str, KeyedText] = _read(self._file)

    def add(self, answers: Sequence[KeyedText]) -> None:
        """Keep a batch of answers; on the disk when this returns.

        Raises:
            OutOfSpace, WorkFailed: the disk refused.
        """
        lines = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        try:
            with open(self._file, "ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise explain_os_error(error, self._file) from error
        self.finished.update({answer.key: answer for answer in answers})

    def remove(self) -> None:
        """Remove the folder: the output is written."""
        shutil.rmtree(self._folder)


@contextmanager
def partial_answers(output: Path, settings: Mapping[str, Any], *, overwrite: bool) -> Iterator[PartialAnswers]:
    """The partial answers of `output`, held for this process.

    Args:
        output: The file that will be written.
        settings: All that the answers depend on; those of an unfinished run must be the same.
        overwrite: Begin anew where they are not.

    Raises:
        OutputExists: another process writes this output, or an unfinished run was asked for something else.
    """
    folder = output.with_name(f".{output.name}.partial")
    with exclusive(output.with_name(f".{output.name}.lock")):
        before = _read_settings(folder)
        wanted = json.loads(json.dumps(settings))
        if before is not None and before != wanted:
            if not overwrite:
                raise OutputExists(f"{folder}: {_difference(before, wanted)}; pass --overwrite to begin anew")
            shutil.rmtree(folder)
            before = None
        if before is None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "answers.jsonl").unlink(missing_ok=True)
            write_json_atomically(folder / "settings.json", wanted)
        yield PartialAnswers(folder)


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """None where no run has begun, or its settings cannot be read."""
    try:
        content = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _difference(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    name = next(key for key in (*wanted, *before) if before.get(key) != wanted.get(key))
    return f"an unfinished run with {name} {before.get(name)!r} is here, now it is {wanted.get(name)!r}"


def _read(file: Path) -> dict[str, KeyedText]:
    """The whole lines of the file by key; a last line without its end was being written when the run died."""
    if not file.is_file():
        return {}
    raw = file.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        os.truncate(file, whole)
    answers = (KeyedText(**json.loads(line)) for line in raw[:whole].split(b"\n") if line)
    return {answer.key: answer for answer in answers}
