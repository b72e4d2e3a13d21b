"""Runs a function as several processes with the environment that `torchrun` would give them.

Python's fork server imports torch once and forks every rank from a process that has computed nothing: no rank inherits
threads that do not exist in it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mats.errors import MatsError

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["mats.engine.collection", "transformers.models.vit.modeling_vit"])


def run_ranks(
    function: Callable[[], Any],
    folder: Path,
    count: int = 2,
    seconds: float = 120.0,
    env: Mapping[str, str] = MappingProxyType({}),
) -> list[Any]:
    """What `function` gives in each rank: its value, the MatsError it raised, or minus the signal that ended it.

    Args:
        function: of a module, so that it can be pickled.
        folder: for what the ranks say.
        count: of ranks.
        seconds: that they may take.
        env: variables that they see besides.

    Raises:
        AssertionError: a rank raised something else, or did not end in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), **env}
    said = [folder / f"rank-{rank}" for rank in range(count)]
    ranks = [
        CONTEXT.Process(
            target=_rank, args=(function, said[rank], {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        )
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    try:
        return [_end_of(process, path, seconds) for process, path in zip(ranks, said, strict=True)]
    finally:
        for process in ranks:
            process.kill()
            process.join()


def _rank(function: Callable[[], Any], said: Path, env: Mapping[str, str]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(env)
    try:
        try:
            value = function()
        except MatsError as error:
            value = error
        said.write_bytes(pickle.dumps(value))
    except BaseException:
        said.with_suffix(".trace").write_text(traceback.format_exc())


def _end_of(process: Any, said: Path, seconds: float) -> Any:
    process.join(seconds)
    assert process.exitcode is not None, f"{said.name} was still waiting after {seconds} s"
    trace = said.with_suffix(".trace")
    assert not trace.exists(), trace.read_text()
    return process.exitcode if process.exitcode != 0 else pickle.loads(said.read_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
