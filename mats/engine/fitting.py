"""A group solved in as few batches as the memory holds: halved when that runs out, down to one layer.

What does not fit alone on a GPU is solved on the CPU; what does not fit there, with its factors on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mats.engine.loading import GroupProblem
from mats.engine.plan_parts import Group
from mats.errors import OutOfSpace, is_out_of_memory
from mats.solvers import Solution

Load = Callable[[Group, torch.device], GroupProblem]
Solve = Callable[[GroupProblem, Group], Solution]


@dataclass(frozen=True)
class Solved:
    """Some of a group's systems, solved. `made_do` is what the report says where memory ran out; else empty."""

    group: Group
    solution: Solution
    made_do: Mapping[str, Any]


def solve_fitting(group: Group, load: Load, solve: Solve, device: torch.device) -> Iterator[Solved]:
    """Solve a group whole, or in halves of halves; each part is handed out as soon as it is there.

    Args:
        group: what to solve.
        load: reads a group, or a part of one, to a device; asked again for every attempt.
        solve: solves what was loaded.
        device: where to solve.

    Raises:
        OutOfSpace: one layer alone does not fit, on the CPU either.
    """
    told = _solve_whole(group, load, solve, device)
    if isinstance(told, Solution):
        yield Solved(group, told, {})
        return
    for part, place in _smaller(group, device, told):
        for solved in solve_fitting(part, load, solve, place):
            here = {"batch": len(part.systems), "device": place.type, "on_disk": part.on_disk}
            yield replace(solved, made_do={**here, **solved.made_do})


def _solve_whole(group: Group, load: Load, solve: Solve, device: torch.device) -> Solution | str:
    """The solution, or what was said when memory ran out. What the attempt held is free again when this returns."""
    try:
        return solve(load(group, device), group)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return (str(error).splitlines() or [type(error).__name__])[0]


def _smaller(group: Group, device: torch.device, told: str) -> Iterator[tuple[Group, torch.device]]:
    """What to try when a group did not fit on a device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    systems = group.systems
    if len(systems) > 1:
        half = len(systems) // 2
        yield _part(group, systems[:half]), device
        yield _part(group, systems[half:]), device
    elif device.type != "cpu":
        yield group, torch.device("cpu")
    elif not group.on_disk:
        yield replace(group, on_disk=True), device
    else:
        (system,) = systems
        raise OutOfSpace(
            f"{system.weight} {list(system.shape)}: out of memory, solved alone with its factors on disk ({told}); "
            f"about {group.bytes} bytes free would be right, or an elementwise method for it by a rule"
        )


def _part(group: Group, systems: Sequence[Any]) -> Group:
    share = len(systems) / len(group.systems)
    return replace(
        group,
        systems=tuple(systems),
        bytes=int(group.bytes * share),
        loaded_bytes=int(group.loaded_bytes * share),
        value_bytes=int(group.value_bytes * share),
    )


def made_do_notes(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the report says about layers that were solved in smaller batches than planned, a sentence for each kind."""
    layers: dict[tuple[Any, ...], list[str]] = {}
    for entry in entries:
        if made_do := entry.get("made_do"):
            where = f"on {made_do['device']}" + (", their factors on disk" if made_do["on_disk"] else "")
            key = (made_do["batch"], made_do["planned"], where)
            layers.setdefault(key, []).append(entry["name"])
    return [
        f"memory ran out: {len(names)} layers planned in batches of {planned} were solved {batch} at a time {where} "
        f"(first: {names[0]})"
        for (batch, planned, where), names in layers.items()
    ]
