"""The methods of the demo, and the settings of each among which validation examples choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METHODS = ("average", "task_arithmetic", "ties", "tsv_m", "fisher", "regmean", "mats")


@dataclass(frozen=True)
class Candidate:
    """One merge to try: a method and the settings that differ from its defaults."""

    method: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """`mats anchor 0.3`: how tables and folders call it."""
        return " ".join([self.method, *(f"{key} {value}" for key, value in self.settings.items())])

    @property
    def folder_name(self) -> str:
        """`mats-anchor-0.3`."""
        return self.label.replace(" ", "-")

    @property
    def overrides(self) -> list[str]:
        """What `mats merge` takes after the recipe to make this merge."""
        return [f"merge.method={self.method}", *(f"merge.{key}={value}" for key, value in self.settings.items())]


def one_setting(method: str, key: str, values: tuple[float, ...]) -> list[Candidate]:
    """A candidate for each value of one setting."""
    return [Candidate(method, {key: value}) for value in values]


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("average", {}),
    *one_setting("task_arithmetic", "scale", (0.2, 0.3, 0.4)),
    *one_setting("ties", "scale", (0.7, 1.0, 1.3)),
    *one_setting("tsv_m", "scale", (0.7, 1.0, 1.3)),
    *one_setting("fisher", "anchor", (0.01, 0.1, 1.0)),
    *one_setting("regmean", "anchor", (0.001, 0.01, 0.1)),
    Candidate("mats", {}),  # nothing to choose: its defaults are meant to need no evaluation
)


def best_of_each_method(validation: Mapping[str, float]) -> dict[str, Candidate]:
    """For each method the candidate with the highest score; the first of equals.

    Args:
        validation: label → mean normalised validation score; candidates without one are passed over.
    """
    best: dict[str, Candidate] = {}
    for candidate in CANDIDATES:
        score = validation.get(candidate.label)
        if score is None:
            continue
        held = best.get(candidate.method)
        if held is None or score > validation[held.label]:
            best[candidate.method] = candidate
    return best
