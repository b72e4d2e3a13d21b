"""What starting costs: no heavy import for help, for `import mats`, or for finding the faults of a recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_files import processor_seconds

import mats

HEAVY = ("torch", "transformers", "datasets", "peft", "scipy", "numpy", "matplotlib")


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after running `code`."""
    program = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import mats; mats.__version__; mats.MatsError",
        "from mats.cli.main import main; main(['merge', '--help'])",
        "import mats; mats.recipe_from({'models': ['a'], 'merge': {'method': 'ties', 'density': 0.1}})",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded_after(code) == set()


def test_the_probe_sees_heavy_imports() -> None:
    assert "torch" in loaded_after("import mats; mats.solve")


def test_help_answers_in_half_a_second() -> None:
    assert processor_seconds("--help") < 0.5


def test_the_public_names_are_all_there() -> None:
    assert set(mats.__all__) == set(mats._HOMES) | {"__version__"}
    for name in mats.__all__:
        assert getattr(mats, name) is not None
    assert set(mats.__all__) <= set(dir(mats))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mats.nothing  # noqa: B018


def test_the_program_is_installed() -> None:
    program = Path(sys.executable).with_name("mats")
    assert (
        subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        == f"mats {mats.__version__}\n"
    )
