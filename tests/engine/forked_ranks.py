"""Runs a function as several processes with the environment that `torchrun` would give them.

The processes are forks of the present one, so that torch is imported once.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mats.errors import MatsError


def run_ranks(
    function: Callable[[], Any], folder: Path, count: int = 2, seconds: float = 120.0, env: Mapping[str, str] = {}
) -> list[Any]:
    """What `function` gives in each rank: its value, the MatsError it raised, or minus the signal that ended it.

    Raises:
        AssertionError: a rank raised something else, or did not end in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), **env}
    children = [
        _fork(function, folder / f"rank-{rank}", {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    return [_end_of(child, folder / f"rank-{rank}", seconds) for rank, child in enumerate(children)]


def _fork(function: Callable[[], Any], said: Path, env: Mapping[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(env)
        try:
            value = function()
        except MatsError as error:
            value = error
        said.write_bytes(pickle.dumps(value))
        status = 0
    except BaseException:
        said.with_suffix(".trace").write_text(traceback.format_exc())
    finally:
        os._exit(status)


def _end_of(child: int, said: Path, seconds: float) -> Any:
    until = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"{said.name} was still waiting after {seconds} s")
        time.sleep(0.005)
    if os.WIFSIGNALED(ended[1]):
        return -os.WTERMSIG(ended[1])
    trace = said.with_suffix(".trace")
    assert not trace.exists(), trace.read_text()
    return pickle.loads(said.read_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
