"""What the records of a real problem add up to: times, iterations and ratios, by shape and for all layers."""

from __future__ import annotations

from typing import Any

OTHERS = ("ours, cg", "scipy, our operator", "lineax", "dense")

Record = dict[str, Any]


def summary(records: list[Record], damping: float, tolerance: float, clock: str) -> list[Record]:
    """A line per shape at one damping, and one for all layers, from what has been measured.

    Each line has our time on all layers; the published way's on its sample, finished and unfinished systems apart; its
    extrapolation to all layers, by the mean of the shape's sample; ours on exactly the finished and unfinished ones.

    Args:
        records: of `real.measure`.
        damping: the setting.
        tolerance: likewise.
        clock: "seconds" or "processor_seconds".
    """
    chosen = [r for r in records if r["key"]["damping"] == damping and r["key"]["tolerance"] == tolerance]
    shapes = list(dict.fromkeys(r["key"]["shape"] for r in chosen))
    lines = [_line(shape, [r for r in chosen if r["key"]["shape"] == shape], clock) for shape in shapes]
    complete = [line for line in lines if line is not None]
    return [*complete, _total(complete)] if complete else []


def ratio(line: Record, part: str) -> float | None:
    """The published way's time ÷ ours on the "finished" or "left" systems of a line; None where there are none."""
    own = line[f"ours_{part}_time"]
    return line[f"published_{part}_time"] / own if own else None


def _line(shape: str, records: list[Record], clock: str) -> Record | None:
    """One shape; None while a measurement is missing."""
    auto = [r for r in records if r["key"]["contender"] == "ours, auto"]
    wholes = {r["key"]["group"]: r for r in auto if r["key"]["part"] == "whole"}
    slow = [r for r in records if r["key"]["contender"] == "published"]
    if not slow:
        return None
    line: Record = {
        "shape": shape,
        "systems": sum(len(r["key"]["systems"]) for r in wholes.values()),
        "sampled": len(slow),
        "published_time_for_all": sum(r[clock] for r in slow) / len(slow),
        "published_iterations": [r["iterations"][0] for r in slow],
        "published_residual": max(r["residuals"][0] for r in slow),
        "ours_time_for_all": sum(r[clock] for r in wholes.values()),
        "ours_iterations": [n for r in wholes.values() for n in r["iterations"]],
        "ours_residual": max(residual for r in wholes.values() for residual in r["residuals"]),
        "ours_unsolved": sum(r["finished"].count(False) for r in wholes.values()),
        "others": _others(records, slow, clock),
    }
    line["published_time_for_all"] *= line["systems"]
    for part, finished in (("finished", True), ("left", False)):
        own = [r for r in slow if r["finished"][0] is finished]
        line[part] = len(own)
        line[f"published_{part}_time"] = sum(r[clock] for r in own)
        line[f"ours_{part}_time"] = 0.0
        for group in {r["key"]["group"] for r in own}:
            systems = [r["key"]["systems"][0] for r in own if r["key"]["group"] == group]
            same = [r for r in auto if r["key"]["group"] == group and r["key"]["systems"] == systems]
            if not same:
                return None
            line[f"ours_{part}_time"] += same[0][clock]
    return line


def _others(records: list[Record], slow: list[Record], clock: str) -> Record:
    """Each other contender on its layers, beside the published way's time for the same ones."""
    published = {(r["key"]["group"], r["key"]["systems"][0]): r for r in slow}
    others: Record = {}
    for contender in OTHERS:
        found = [r for r in records if r["key"]["contender"] == contender and clock in r]
        if found:
            same = [published.get((r["key"]["group"], system)) for r in found for system in r["key"]["systems"]]
            others[contender] = {
                "systems": len(same),
                "time": sum(r[clock] for r in found),
                "published_time": None if None in same else sum(r[clock] for r in same if r is not None),
                "iterations": [n for r in found for n in r["iterations"]],
                "residual": max(residual for r in found for residual in r["residuals"]),
                "finished": sum(r["finished"].count(True) for r in found),
            }
    return others


def _total(lines: list[Record]) -> Record:
    """All shapes together: times and counts added, iterations collected, residuals at their worst."""
    total: Record = {"shape": "all layers", "others": {}}
    for name, value in lines[0].items():
        if name.endswith("residual"):
            total[name] = max(line[name] for line in lines)
        elif name.endswith("iterations"):
            total[name] = [n for line in lines for n in line[name]]
        elif isinstance(value, (int, float)):
            total[name] = sum(line[name] for line in lines)
    return total
