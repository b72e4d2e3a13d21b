"""Tiny untrained bases with their data, built once per session."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))

from training_cases import TinyBase, build_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyBase]:
    """`tiny_base("bert" | "t5" | "vit" | "gpt2")`: an untrained base and dataset files; read-only for tests."""
    built: dict[str, TinyBase] = {}

    def base(kind: str) -> TinyBase:
        if kind not in built:
            built[kind] = build_base(kind, tmp_path_factory.mktemp("base") / kind)
        return built[kind]

    return base
