"""The processes that train together under `accelerate launch`; one alone otherwise."""

from __future__ import annotations

import os
from typing import Any


def process_count() -> int:
    """How many processes were launched together, known before anything is set up."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def connect(*, cpu: bool) -> None:
    """Let the processes know each other; nothing happens where there is one alone."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def first_to_all(value: Any) -> Any:
    """The value that the first process has, in every process; theirs is ignored."""
    if process_count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]
