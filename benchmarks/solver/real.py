"""Every layer of a real merge, loaded by the engine itself, solved by all contenders to one true residual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from batch import Batch
from contenders import PUBLISHED_LIMIT, dense, ours, published, scipy_on_our_operator
from lineax_contender import lineax
from records import Records

from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader
from mats.engine.plan import Group, make_plan, store_indexes
from mats.engine.streaming import ElementwisePool
from mats.progress import Silent
from mats.quadratics import KroneckerQuadratic
from mats.recipes import load_recipe
from mats.recipes.requests import merge_request


@dataclass(frozen=True)
class Choice:
    """What is compared.

    Attributes:
        recipe: of a merge whose stores exist.
        dampings: settings of the factored damping; 0 is μ = 0.
        tolerance: true relative residual to reach.
        layers: layers of each shape that SciPy's and the others' slow runs get; 0: all.
        second_layers: how many of these the other contenders get, at the first of `dampings`; 0: none.
        most: iterations that ours may take.
        lineax_python: an interpreter that has lineax; None: without it.
    """

    recipe: Path
    dampings: tuple[float, ...]
    tolerance: float
    layers: int
    second_layers: int
    most: int
    lineax_python: str | None


@contextmanager
def opened(recipe: Path) -> Iterator[tuple[list[Group], GroupLoader]]:
    """The K-FAC groups of a recipe's merge, smallest first, and what loads them."""
    request = merge_request(load_recipe(recipe, []), Path("never-written"))
    with MergeInputs(request) as inputs:
        plan = make_plan(inputs)
        pool = ElementwisePool(inputs, plan, Silent())
        loader = GroupLoader(inputs, store_indexes(inputs), pool.for_start, torch.device("cpu"))
        groups = [group for group in plan.groups if group.systems[0].rule == "kfac"]
        yield sorted(groups, key=lambda group: _size(group.systems[0].shape)), loader


def measure(choice: Choice, records: Records) -> None:
    """All contenders on all groups, at every damping; what is measured already is not measured again.

    Raises:
        OutOfTime: the minutes of `records` are over.
    """
    with opened(choice.recipe) as (groups, loader):
        samples = _samples(groups, choice.layers)
        for damping in choice.dampings:
            for number, batch in _batches(groups, loader, damping):
                _compare(batch, _key(batch, number, choice), samples[number], choice, records)
        if choice.second_layers == 0:
            return
        seconds = _thinned(groups, samples, choice.second_layers)
        wanted = [group if second else None for group, second in zip(groups, seconds, strict=True)]
        for number, batch in _batches(wanted, loader, choice.dampings[0]):
            _others(batch, _key(batch, number, choice), seconds[number], choice, records)


def _batches(groups: Sequence[Group | None], loader: GroupLoader, damping: float) -> Iterator[tuple[int, Batch]]:
    """The groups that are wanted, one in memory at a time."""
    for number, group in enumerate(groups):
        problem = None if group is None else loader.load(group)
        if group is None or problem is None or not isinstance(problem.quadratic, KroneckerQuadratic):
            continue  # a tied matrix collects several terms; the published way has no product for it
        yield number, Batch(_name(group), problem.quadratic, problem.targets, problem.start, damping)


def _key(batch: Batch, number: int, choice: Choice) -> dict[str, Any]:
    return {"shape": batch.name, "group": number, "damping": batch.damping, "tolerance": choice.tolerance}


def _name(group: Group) -> str:
    return "{}×{}".format(*group.systems[0].shape)


def _samples(groups: Sequence[Group], most: int) -> list[list[int]]:
    """For every group, which of its systems the published way gets: at most `most` of each shape, evenly spaced."""
    return _thinned(groups, [list(range(len(group.systems))) for group in groups], most)


def _thinned(groups: Sequence[Group], samples: Sequence[list[int]], most: int) -> list[list[int]]:
    """Of the systems in `samples`, at most `most` of each shape."""
    places: dict[str, list[tuple[int, int]]] = {}
    for number, (group, sample) in enumerate(zip(groups, samples, strict=True)):
        places.setdefault(_name(group), []).extend((number, system) for system in sample)
    chosen = {of_shape[position] for of_shape in places.values() for position in spread(len(of_shape), most)}
    return [[system for system in sample if (number, system) in chosen] for number, sample in enumerate(samples)]


def _compare(batch: Batch, key: dict[str, Any], sample: list[int], choice: Choice, records: Records) -> None:
    """One group: ours as a whole first, then the slow ones layer by layer, then ours on exactly their layers."""
    tolerance = choice.tolerance
    whole = list(range(batch.systems))
    _ours(batch, whole, "auto", key | {"part": "whole"}, choice, records)
    parts: dict[bool, list[int]] = {True: [], False: []}
    for system in sample:
        record = records.measured(
            key | {"contender": "published", "systems": [system]}, lambda s=system: published(batch, s, tolerance)
        )
        parts[record["finished"][0]].append(system)
    for finished, systems in parts.items():
        if systems and systems != whole:
            part = {"part": "finished" if finished else "left"}
            _ours(batch, systems, "auto", key | part, choice, records)


def _others(batch: Batch, key: dict[str, Any], second: list[int], choice: Choice, records: Records) -> None:
    """Whoever else can solve these, on a few layers."""
    _ours(batch, second, "cg", key, replace(choice, most=PUBLISHED_LIMIT), records)
    for system in second:
        for contender in ("scipy, our operator", "lineax", "dense"):
            if contender == "lineax" and choice.lineax_python is None:
                continue
            records.measured(
                key | {"contender": contender, "systems": [system]},
                lambda c=contender, s=system: _slow(batch, s, c, choice),
            )


def _slow(batch: Batch, system: int, contender: str, choice: Choice) -> dict[str, Any]:
    if contender == "lineax":
        assert choice.lineax_python is not None
        return lineax(choice.lineax_python, batch, system, choice.tolerance)
    if contender == "dense":
        return dense(batch, system, choice.tolerance) or {"does_not_fit": True}
    return scipy_on_our_operator(batch, system, choice.tolerance)


def _ours(
    batch: Batch, systems: Sequence[int], solver: str, key: dict[str, Any], choice: Choice, records: Records
) -> dict[str, Any]:
    return records.measured(
        key | {"contender": f"ours, {solver}", "systems": list(systems)},
        lambda: ours(batch.select(systems), solver, choice.tolerance, choice.most),
    )


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` positions, evenly spaced from first to last; 0 for all."""
    if most in (0, count) or most > count:
        return list(range(count))
    if most == 1:
        return [count // 2]
    return sorted({round(position * (count - 1) / (most - 1)) for position in range(most)})


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] * (shape[0] + shape[1])
