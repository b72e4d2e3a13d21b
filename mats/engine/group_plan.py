"""Which systems are solved together, in which order, and what each group takes of the memory budget."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mats.engine.devices import resolve_device
from mats.engine.memory import (
    DEFAULT_BUDGET,
    FLOAT,
    device_memory,
    factor_elements,
    loaded_bytes,
    mapped_system_bytes,
    physical_memory,
    system_bytes,
)
from mats.engine.plan_parts import Group, System
from mats.engine.request import MergeRequest
from mats.errors import OutOfSpace

FULL_BATCH = {"cpu": 3e8, "cuda": 1e11}
"""Operations of one application of a batch from which on a larger one gains nothing: several are better, for one to be
read while another is solved. On a CPU measured (benchmarks/merging/batches.py): 8 layers of width 64 together take
half as long as one by one, and 16 no less; from width 256 on, one alone is as good. On a GPU an estimate."""

ITERATIONS = 40  # that a preconditioned solve takes, about (benchmarks/solver); only ratios of work matter
DECOMPOSITION = 60  # operations for each n³ of an eigendecomposition in float64, in those of a product in float32


@dataclass(frozen=True)
class Needs:
    """Bytes of one system: while it is solved, before that, and its result; and whether its factors stay on disk."""

    solved: int
    loaded: int
    value: int
    on_disk: bool

    @property
    def overlapped(self) -> int:
        """Bytes for each system of a group that is solved while another like it is read and a third written."""
        return self.solved + self.loaded + self.value


def plan_groups(systems: Sequence[System], request: MergeRequest, models: int) -> list[Group]:
    """Same-shaped systems stacked, as many as the budget holds and as pay; in the order of the work.

    Raises:
        OutOfSpace: one system alone exceeds the budget, or the memory there is, even with its factors on disk.
    """
    device = resolve_device(request.device)
    soft = min(request.memory_budget or DEFAULT_BUDGET, device_memory(device) * 3 // 4)
    alike = _alike(systems)
    _check_largest([members[0] for members in alike], request, models)
    groups = []
    for members in alike:
        needs = _needs(members[0], request, models)
        each = application_work(members[0], models)
        fitting = soft // needs.overlapped or soft // needs.solved
        size = 1 if needs.on_disk else max(1, min(fitting, int(FULL_BATCH[device.type] / each)))
        for part in _evenly(members, size):
            count = len(part)
            work = count * solve_work(members[0], models)
            groups.append(
                Group(part, needs.solved * count, needs.loaded * count, needs.value * count, work, needs.on_disk)
            )
    return overlapped(in_order(groups), request)


def in_order(groups: Sequence[Group]) -> list[Group]:
    """First the one that is read fastest, since nothing is solved meanwhile; then the most work first, so that several
    processes end together."""
    if not groups:
        return []
    first = min(groups, key=lambda group: group.loaded_bytes)
    rest = [group for group in groups if group is not first]
    return [first, *sorted(rest, key=lambda group: -group.work)]


def overlapped(groups: Sequence[Group], request: MergeRequest) -> list[Group]:
    """The groups in this order, each told whether the budget holds its neighbours beside it."""
    limit = overlap_budget(request)
    told = []
    for place, group in enumerate(groups):
        ahead = groups[place + 1].loaded_bytes if place + 1 < len(groups) else 0
        behind = groups[place - 1].value_bytes if place else 0
        told.append(replace(group, overlaps=group.bytes + ahead + behind <= limit))
    return told


def overlap_budget(request: MergeRequest) -> int:
    """Bytes that a group and its neighbours may take: the budget, or without one three quarters of the memory."""
    available = _available(request) * 3 // 4
    return min(request.memory_budget or available, available)


def _available(request: MergeRequest) -> int:
    """Bytes of memory there are: on the device, and on the host that everything passes through."""
    return min(device_memory(resolve_device(request.device)), physical_memory())


def groups_peak(groups: Sequence[Group]) -> int:
    """The most bytes that any group takes with what is read and written beside it."""
    peak = 0
    for place, group in enumerate(groups):
        ahead = groups[place + 1].loaded_bytes if group.overlaps and place + 1 < len(groups) else 0
        behind = groups[place - 1].value_bytes if group.overlaps and place else 0
        peak = max(peak, group.bytes + ahead + behind)
    return peak


def memory_notes(groups: Sequence[Group], request: MergeRequest) -> tuple[str, ...]:
    """What the budget prevents, and the budget that would not."""
    notes = []
    budget = overlap_budget(request)
    for group in groups:
        if group.on_disk:
            (system,) = group.systems
            notes.append(
                f"{system.weight} {list(system.shape)} keeps its factors on disk, read anew in every iteration: with "
                f"them it would not fit into {budget} bytes"
            )
    alone = [place for place, group in enumerate(groups) if not group.overlaps]
    if len(groups) > 1 and alone:
        enough = groups_peak([replace(group, overlaps=True) for group in groups])
        notes.append(
            f"{len(alone)} of {len(groups)} groups are solved while nothing else is read or written; a memory budget "
            f"of {enough} bytes would hold their neighbours too"
        )
    return tuple(notes)


def application_work(system: System, models: int) -> float:
    """Operations of Σ λ_i C_i X for one system."""
    rows, columns = system.shape
    if not system.terms:
        return 2.0 * models * rows * columns * (columns if system.rule == "block" else 1)
    total = 0.0
    for term in system.terms:
        left, right = system.sides_of(term)
        total += 2.0 * models * rows * columns * ((1 if term.counts else right) + (left if term.output else 0))
    return total


def solve_work(system: System, models: int) -> float:
    """Operations of a whole solve, decompositions included, very roughly."""
    iterations = ITERATIONS if system.rule == "kfac" else 2
    dense = [] if system.rule in ("diagonal", "identity") else [n for n in _factors(system) if n > max(system.shape)]
    return iterations * application_work(system, models) + DECOMPOSITION * sum(elements**1.5 for elements in dense)


def _alike(systems: Sequence[System]) -> list[list[System]]:
    """Systems that one batch can hold: of one shape, curvature and settings; tied weights each for itself."""
    alike: dict[tuple[object, ...], list[System]] = {}
    for system in systems:
        single = (system.weight,) if len(system.terms) > 1 else ()
        form = tuple((replace(term, layer="", layout="")) for term in system.terms)
        alike.setdefault((system.shape, system.rule, system.settings, form, *single), []).append(system)
    return list(alike.values())


def _evenly(members: Sequence[System], size: int) -> list[tuple[System, ...]]:
    """In as few parts as `size` allows, of sizes that differ by one at most."""
    count = -(-len(members) // size)
    bounds = [len(members) * number // count for number in range(count + 1)]
    return [tuple(members[start:end]) for start, end in itertools.pairwise(bounds)]


def _hard_limit(request: MergeRequest) -> int:
    """Bytes that one layer may take: the budget, or all the memory there is."""
    available = _available(request)
    return min(request.memory_budget or available, available)


def _solved_bytes(system: System, models: int) -> tuple[int, int]:
    """What a system takes while it is solved, with its factors in memory and with them on disk."""
    factors, snapshots = _factors(system), len(system.settings.solver.snapshots)
    return (
        system_bytes(system.shape, models, factors, snapshots=snapshots),
        mapped_system_bytes(system.shape, models, factors, snapshots=snapshots),
    )


def _check_largest(systems: Sequence[System], request: MergeRequest, models: int) -> None:
    """Refuse what no way of solving fits, with the bytes that would do for every layer.

    Raises:
        OutOfSpace: the largest layer exceeds the budget, or the memory there is.
    """
    hard = _hard_limit(request)
    least = {system.weight: min(_solved_bytes(system, models)) for system in systems}
    largest = max(systems, key=lambda system: least[system.weight], default=None)
    if largest is not None and least[largest.weight] > hard:
        raise OutOfSpace(
            f"{largest.weight} {list(largest.shape)} with {models} models needs {least[largest.weight]} bytes to be "
            f"solved with its factors on disk ({_solved_bytes(largest, models)[0]} with all in memory), more than the "
            f"{hard} bytes allowed; raise --memory-budget, or give it an elementwise method by a rule"
        )


def _needs(system: System, request: MergeRequest, models: int) -> Needs:
    """What one system takes, its factors in memory or, where they do not fit, on disk."""
    held, mapped = _solved_bytes(system, models)
    value = FLOAT * system.shape[0] * system.shape[1] * (1 + len(system.settings.solver.snapshots))
    if held <= _hard_limit(request):
        return Needs(held, loaded_bytes(system.shape, models, _factors(system)), value, on_disk=False)
    return Needs(mapped, loaded_bytes(system.shape, models, []), value, on_disk=True)


def _factors(system: System) -> list[int]:
    rows, columns = system.shape
    if system.rule in ("diagonal", "identity"):
        return [rows * columns]
    if system.rule == "block":
        return [columns * columns]
    sizes = []
    for term in system.terms:
        left, right = system.sides_of(term)
        sizes.append(factor_elements(right, diagonal=term.counts))
        if term.output:
            sizes.append(factor_elements(left, diagonal=False))
    return sizes
