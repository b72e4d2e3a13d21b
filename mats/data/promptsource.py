"""Reading promptsource's template files (Bach et al. 2022, arXiv 2202.01279; Apache-2.0; configs/promptsource/NOTICE).

The files are YAML with two tags of promptsource's own, which become plain mappings here: nothing is constructed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mats.data.prompts import JinjaTemplate, Prompts
from mats.errors import RequestError

FOLDER = "promptsource"
FILE = "templates.yaml"


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it


class _TemplateLoader(_SafeLoader):
    """PyYAML's safe loader that takes promptsource's two tags for plain mappings."""


def _construct_mapping(loader: _TemplateLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return mapping


_TemplateLoader.add_constructor("!Template", _construct_mapping)
_TemplateLoader.add_constructor("!TemplateMetadata", _construct_mapping)


def read_templates(prompts: Prompts, beside: Path) -> tuple[JinjaTemplate, ...]:
    """The templates that `prompts` asks for, in the order of promptsource's file.

    Args:
        prompts: Which file, and what to keep of it.
        beside: Folder of the dataset file.

    Raises:
        RequestError: there is no such file, it is none of promptsource's, a name in `only` or `without` is not in it,
            or nothing is kept.
    """
    path = _path_of(prompts, beside)
    entries = _read(path)
    names = [str(entry.get("name")) for entry in entries]
    for name in (*prompts.only, *prompts.without, *prompts.fixed_draws):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise RequestError(
                f"{path}: no template '{name}'; {f'nearest: {near[0]}' if near else 'there are: ' + ', '.join(names)}"
            )
    kept = [entry for entry in entries if _keeps(prompts, entry)]
    if not kept:
        raise RequestError(f"{path}: none of its {len(entries)} templates is kept; looser filters would be right")
    templates = [
        JinjaTemplate(name=entry["name"], jinja=entry["jinja"], answer_choices=entry.get("answer_choices"))
        for entry in kept
    ]
    return tuple(_with_fixed_draws(templates, prompts.fixed_draws))


def _with_fixed_draws(templates: list[JinjaTemplate], counts: Mapping[str, int]) -> Iterator[JinjaTemplate]:
    """The templates that draw nothing by themselves, then each other one once per item that it may draw."""
    yield from (template for template in templates if template.name not in counts)
    for template in templates:
        for item in range(counts.get(template.name, 0)):
            yield template.model_copy(update={"name": f"{template.name} {item + 1}", "draw": item})


def _path_of(prompts: Prompts, beside: Path) -> Path:
    """The file that `prompts` names; it must be there.

    Raises:
        RequestError: it is not there, or no folder above the dataset file holds promptsource's files.
    """
    inside = [part for part in (prompts.promptsource, prompts.config) if part is not None]
    if any(part.startswith((".", "/")) or ".." in part.split("/") for part in inside):
        raise RequestError(
            f"prompts: {'/'.join(inside)} leaves the folder of promptsource's files; a name would be right"
        )
    if prompts.folder is not None:
        places = [beside / prompts.folder.expanduser()]
    else:
        places = [folder / FOLDER for folder in (beside.absolute(), *beside.absolute().parents)]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise RequestError(
            f"prompts: no folder {places[0] if prompts.folder else f'{FOLDER!r} beside or above {beside}'}; "
            "set prompts.folder to the folder of promptsource's files"
        )
    path = found.joinpath(*inside, FILE)
    if not path.is_file():
        known = sorted(_datasets_in(found))
        near = difflib.get_close_matches("/".join(inside), known, n=1)
        hint = f"nearest: {near[0]}" if near else f"there are: {', '.join(known)}"
        raise RequestError(f"prompts: {path}: no such file; {hint}")
    return path


def _datasets_in(folder: Path) -> Iterator[str]:
    """Names of the datasets (`<dataset>` or `<dataset>/<config>`) whose files lie in `folder`."""
    for path in folder.rglob(FILE):
        yield path.parent.relative_to(folder).as_posix()


def _read(path: Path) -> list[Mapping[str, Any]]:
    """The entries of a file, in its order."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TemplateLoader)
        entries = list(content["templates"].values())
        if not all(isinstance(entry, dict) and {"name", "jinja"} <= set(entry) for entry in entries):
            raise KeyError("name")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RequestError(f"{path}: is no file of promptsource's ({reason})") from error
    return entries


def _keeps(prompts: Prompts, entry: Mapping[str, Any]) -> bool:
    """Whether every filter lets a template pass."""
    metadata = entry.get("metadata") or {}
    metrics = metadata.get("metrics") or []
    return (
        (prompts.original_task is None or bool(metadata.get("original_task")) == prompts.original_task)
        and (prompts.choices is None or (entry.get("answer_choices") is not None) == prompts.choices)
        and (prompts.metric is None or (bool(metrics) and all(metric == prompts.metric for metric in metrics)))
        and (not prompts.only or entry["name"] in prompts.only)
        and entry["name"] not in prompts.without
    )
