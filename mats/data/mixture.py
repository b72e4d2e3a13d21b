"""Several datasets under one name: a mixture file is a list of dataset files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from mats.data.spec import DatasetSpec
from mats.data.spec_file import load_spec, validated
from mats.data.strict import Strict
from mats.errors import RecipeError
from mats.yaml_reader import read_yaml


class MixtureFile(Strict):
    """What a mixture file may say."""

    name: str = Field(min_length=1, pattern=r"^[^/\\\s]+$", description="How reports call it; no spaces or slashes.")
    datasets: tuple[str, ...] = Field(min_length=1, description="Dataset files, relative to this file.")
    most_examples: int | None = Field(
        default=None, ge=1, description="Examples that training takes of each dataset at most. Default: all."
    )


@dataclass(frozen=True)
class Mixture:
    """Several datasets under one name.

    Attributes:
        name: How reports call it.
        datasets: The specifications, in the order of the file; names are unique.
        most_examples: Examples that training takes of each at most; None: all.
    """

    name: str
    datasets: tuple[DatasetSpec, ...]
    most_examples: int | None = None


def load_mixture(path: str | Path, *, root: str | Path | None = None) -> Mixture:
    """Read a mixture file and all the dataset files it names.

    Args:
        path: YAML file.
        root: Takes the place of every dataset's `root`, the folder of the data.

    Raises:
        RequestError: a file is missing or no text.
        RecipeError: a file has faults, or two datasets share a name; all faults, one per line.
    """
    path = Path(path)
    content = validated(MixtureFile, read_yaml(path).data, str(path))
    faults: list[str] = []
    specs: list[DatasetSpec] = []
    for file in content.datasets:
        try:
            specs.append(load_spec(path.parent / file, root=root))
        except RecipeError as error:
            faults += error.faults
    names = [spec.name for spec in specs]
    faults += [
        f"{path}: datasets: '{name}' is given twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if faults:
        raise RecipeError(faults)
    return Mixture(content.name, tuple(specs), content.most_examples)
