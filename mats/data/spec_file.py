"""Reading a dataset file: strict YAML, every fault told at once, promptsource's templates filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mats.data.file_faults import faults_in_file
from mats.data.prompts import Prompts
from mats.data.promptsource import read_templates
from mats.data.spec import DatasetSpec
from mats.errors import RecipeError, RequestError
from mats.yaml_reader import read_yaml

Model = TypeVar("Model", bound=BaseModel)


def load_spec(
    path: str | Path, *, root: str | Path | None = None, source: Mapping[str, Any] | None = None
) -> DatasetSpec:
    """Read a dataset file.

    Args:
        path: YAML (or JSON) file; see docs/datasets.md.
        root: Takes the place of the file's `root`, the folder of the data (relative to the working folder).
        source: Takes the place of the file's `source`, as where the hub's rows lie in files of one's own.

    Returns:
        The specification, with `root` made absolute. No data file is opened yet.

    Raises:
        RequestError: the file is missing or no text.
        RecipeError: it has faults; all of them, one per line.
    """
    path = Path(path)
    content = read_yaml(path).data
    if source is not None:
        content = {**content, "source": dict(source)}
    return parse_spec(content, folder=path.parent, where=str(path), root=root)


def parse_spec(
    content: Mapping[str, Any], *, folder: Path, where: str = "dataset", root: str | Path | None = None
) -> DatasetSpec:
    """A specification from plain values; `folder` is what its `root` is relative to, `where` begins each fault.

    Raises:
        RecipeError: it has faults; all of them, one per line.
    """
    spec = validated(DatasetSpec, _with_templates(content, folder, where), where)
    resolved = (Path(root) if root is not None else folder / spec.root.expanduser()).absolute()
    return spec.model_copy(update={"root": resolved})


def validated(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Plain values as a `model`.

    Raises:
        RecipeError: they have faults; all of them, one per line.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise RecipeError(faults_in_file(error, where, model)) from error


def _with_templates(content: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The content with promptsource's templates filled in, so that a specification stands without their files.

    Raises:
        RecipeError: the templates are not there.
    """
    prompts = content.get("prompts")
    if not isinstance(prompts, Mapping) or prompts.get("templates"):
        return dict(content)
    try:
        wanted = Prompts.model_validate(prompts)
        templates = read_templates(wanted, folder)
    except ValidationError:  # told with all the other faults of the file
        return dict(content)
    except RequestError as error:
        raise RecipeError([f"{where}: {error}"]) from error
    return {**content, "prompts": wanted.model_copy(update={"templates": templates, "folder": None}).model_dump()}
