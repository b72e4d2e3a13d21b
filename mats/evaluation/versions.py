"""Versions of the libraries behind a number, for the files that hold it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def library_versions(*names: str) -> dict[str, str | None]:
    """Versions of mats and of the distributions named; None for one that is not installed."""
    return {name: _version(name) for name in ("mats", *names)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
