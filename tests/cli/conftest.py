"""A way to run a command in this process, and a folder with checkpoints and a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_files import Ended, random_tensors, write_checkpoint

from mats.cli import main as cli


@pytest.fixture
def run_mats(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`run_mats("merge", path, …)`: exit status and what was printed."""

    def run(*arguments: object) -> Ended:
        status = cli.main([str(argument) for argument in arguments])
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with `base`, `one`, `two` and a recipe that averages them into `out`."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "one", "two")):
        write_checkpoint(tmp_path / name, random_tensors(seed))
    (tmp_path / "recipe.yaml").write_text("base: base\nmodels: [one, two]\nmerge: average\noutput: out\ndevice: cpu\n")
    return tmp_path
