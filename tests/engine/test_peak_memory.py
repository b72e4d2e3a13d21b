"""The peak of resident memory: of this process, not of the one that started it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from mats.engine.memory import peak_memory

BALLAST = 900_000_000  # bytes; more than importing torch takes


def test_a_child_does_not_inherit_its_parents_peak() -> None:
    parent = (
        "import subprocess, sys\n"
        f"ballast = bytearray(b'x' * {BALLAST})\n"
        "child = 'from mats.engine.memory import peak_memory; print(peak_memory())'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True, check=True).stdout)\n"
        "import resource\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\n"
    )
    if sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    told = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout.split()
    own, by_the_system = map(int, told)
    assert 0 < own < BALLAST
    assert by_the_system >= BALLAST  # what the function would say if it asked getrusage


def test_without_proc_the_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", _no_file)
    unit = 1 if sys.platform == "darwin" else 1024
    assert peak_memory() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _no_file(*_: object) -> None:
    raise FileNotFoundError("/proc/self/status")
