"""What a command line asks `mats merge` for: a recipe or a merge file of mergekit, and the options beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mats.cli.arguments import with_options
from mats.errors import RecipeError, RequestError

if TYPE_CHECKING:
    from mats.engine.request import MergeRequest

BYTES = {"k": 10**3, "m": 10**6, "b": 10**9}
"""mergekit's letters for sizes of files."""
VOCABULARIES = ("error", "base", "union")


@dataclass(frozen=True)
class MergeOptions:
    """The options of `mats merge` as they were written; None: the file's own, or the default."""

    overwrite: bool
    strict: bool
    vocab: str | None
    device: str | None
    memory_budget: str | None
    out_shard_size: str | None
    random_seed: int | None


def requested_merge(path: Path, output: str | None, overrides: Sequence[str], options: MergeOptions) -> MergeRequest:
    """The request that a file and options amount to.

    Raises:
        RequestError: the file is missing, or has faults, or an option is wrong.
    """
    from mats.recipes.mergekit import is_merge_file
    from mats.yaml_reader import read_yaml

    if is_merge_file(read_yaml(path).data):
        return _of_merge_file(path, output, overrides, options)
    from mats.recipes import load_recipe
    from mats.recipes.requests import merge_request

    given = as_overrides(overrides, options)
    return merge_request(load_recipe(path, given), output, overwrite=options.overwrite, strict=options.strict)


def as_overrides(overrides: Sequence[str], options: MergeOptions) -> list[str]:
    """The overrides of a recipe, with the options that are keys of it."""
    shard = None if options.out_shard_size is None else str(shard_bytes(options.out_shard_size))
    seed = None if options.random_seed is None else str(options.random_seed)
    return with_options(
        overrides,
        vocab=options.vocab,
        device=options.device,
        memory_budget=options.memory_budget,
        max_shard_size=shard,
        seed=seed,
    )


def _of_merge_file(path: Path, output: str | None, overrides: Sequence[str], options: MergeOptions) -> MergeRequest:
    from mats.recipes.mergekit import Options, merge_file_request, with_overrides
    from mats.recipes.sections import DEVICE_PATTERN, DEVICES
    from mats.yaml_reader import read_yaml

    if output is None:
        raise RecipeError([f"{path}: a merge file of mergekit names no output; mats merge {path} OUT would be right"])
    if options.vocab is not None and options.vocab not in VOCABULARIES:
        raise RequestError(f"--vocab {options.vocab}: one of {', '.join(VOCABULARIES)} would be right")
    if options.device is not None and re.fullmatch(DEVICE_PATTERN, options.device) is None:
        raise RequestError(f"--device {options.device}: one of {', '.join(DEVICES)} would be right")
    chosen = Options(
        output=Path(output),
        device=options.device or "auto",
        memory_budget=None if options.memory_budget is None else _size("--memory-budget", options.memory_budget),
        seed=options.random_seed or 0,
        vocab=options.vocab or "error",  # type: ignore[arg-type]
        overwrite=options.overwrite,
        strict=options.strict,
        **({} if options.out_shard_size is None else {"max_shard_bytes": shard_bytes(options.out_shard_size)}),
    )
    return merge_file_request(with_overrides(read_yaml(path), overrides), chosen)


def shard_bytes(text: str) -> int:
    """A size of files: mergekit's `5B` (billions) and `500m`, or with units of bytes, as 5GB.

    Raises:
        RequestError: no size.

    >>> shard_bytes("2B"), shard_bytes("2GiB")
    (2000000000, 2147483648)
    """
    match = re.fullmatch(r"([0-9]+)([kmb])", text.strip().lower())
    return int(match[1]) * BYTES[match[2]] if match else _size("--out-shard-size", text)


def _size(option: str, text: str) -> int:
    from mats.recipes.sizes import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise RequestError(f"{option} {text}: {error}") from error
