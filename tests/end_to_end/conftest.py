"""Tiny families of checkpoints, built once per session and only when a test asks for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_tasks import TinyFamily, build_family


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyFamily]:
    """`tiny_family("bert" | "t5" | "vit")`: a base, three specialists and their data; read-only for tests."""
    built: dict[str, TinyFamily] = {}

    def family(kind: str) -> TinyFamily:
        if kind not in built:
            built[kind] = build_family(kind, tmp_path_factory.mktemp("tiny") / kind)
        return built[kind]

    return family
