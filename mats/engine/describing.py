"""What a merge says about itself: the plan in words, the report, the recipe, and what differs from run to run."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from mats.checkpoints.vocabulary import VocabularyChoice
from mats.engine.devices import resolve_device
from mats.engine.heads import head_lines
from mats.engine.inputs import MergeInputs
from mats.engine.memory import peak_memory
from mats.engine.plan import MergePlan
from mats.engine.request import MergeRequest, ModelInput
from mats.files import write_bytes_atomically
from mats.reporting.report import SCHEMA_VERSION
from mats.store import MetadataStore

GIGABYTE = 1e9


def describe_plan(plan: MergePlan, request: MergeRequest) -> list[str]:
    """The plan, a line per fact, for the user to read before the work."""
    rules = ", ".join(f"{rule} {count:,}" for rule, count in plan.by_rule.items())
    lines = [
        f"{len(plan.tensors)} tensors of {len(request.models)} models; parameters by rule: {rules}",
        f"{len(plan.groups)} groups of layers; at most about {plan.peak_bytes / GIGABYTE:.2f} GB at once; "
        f"{plan.output_bytes / GIGABYTE:.2f} GB to write",
    ]
    for label, names in (("lacks", plan.missing), ("has beyond the base", plan.extra)):
        lines += [
            f"model {model} {label}: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}"
            for model, found in names.items()
            if found
        ]
    if request.heads is not None:
        lines += head_lines(plan.heads, request.heads)
    if plan.fallbacks:
        name, reason = next(iter(plan.fallbacks.items()))
        lines.append(f"{len(plan.fallbacks)} parameters fall back; the first is {name} ({reason})")
    return [*lines, *plan.memory_notes, *plan.notes]


def build_report(
    inputs: MergeInputs, plan: MergePlan, entries: Mapping[str, dict[str, Any]], fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    """`report.json`: nothing in it differs between two runs of one request.

    Args:
        inputs, plan: of this merge.
        entries: tensor name → its report entry, as kept by the writer (those of an interrupted run included).
        fingerprints: model name → content, where known.
    """
    request = inputs.request
    return (
        {
            "schema_version": SCHEMA_VERSION,
            "mats_version": package_version("mats"),
            "method": request.method.name,
            "base": request.base,
            "models": [_model_entry(inputs, index, fingerprints) for index in range(len(request.models))],
            "settings": request.method.model_dump(mode="json"),
            "recipe": recipe_of(request),
            "dtype": request.dtype,
            "parameters": {"total": sum(plan.by_rule.values()), "by_rule": plan.by_rule},
            "layers": [entry for info in plan.tensors for entry in _told_of(entries.get(info.name))],
            "missing": {model: list(names) for model, names in plan.missing.items() if names},
            "extra": {model: list(names) for model, names in plan.extra.items() if names},
            "tied": [list(group) for group in plan.tied],
            "not_floating": [part.name for part in plan.streamed if part.rule == "not_floating"],
            "notes": list(plan.notes),
        }
        | _heads_entry(inputs, plan)
        | _vocabulary_entry(inputs)
    )


def _vocabulary_entry(inputs: MergeInputs) -> dict[str, Any]:
    """Where the rows of the vocabulary come from, where the request says what it is to be."""
    found = inputs.vocabulary.provenance
    return {} if found is None else {"vocabulary": found.told()}


def _heads_entry(inputs: MergeInputs, plan: MergePlan) -> dict[str, Any]:
    """Which parameters are heads, whose head the folder has, and whether the others are kept beside it."""
    if inputs.separated is None or inputs.request.heads is None:
        return {}
    choice = inputs.request.heads
    entry = {"from": choice.source, "owner": inputs.separated.owner_name, "kept": choice.kept, "models": plan.heads}
    return {"heads": entry}


def _model_entry(inputs: MergeInputs, index: int, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    model = inputs.request.models[index]
    used = index in inputs.opened_stores
    return {
        "name": model.name,
        "path": model.path,
        "weight": model.weight,
        "fingerprint": fingerprints.get(model.name) if model.measured_on is None else None,
        "metadata": str(model.metadata) if used else None,
        **_measured_entry(model, fingerprints.get(model.name)),
        **({} if model.sparsify is None else {"sparsify": model.sparsify.model_dump(mode="json")}),
        **_store_entry(inputs.store(index) if used else None),
    }


def _store_entry(store: MetadataStore | None) -> dict[str, Any]:
    """How many examples a store was measured on and where, or what it stands in for."""
    if store is None:
        return {"examples": None}
    if store.proxy is not None:
        return {"examples": None, "proxy": store.proxy}
    return {"examples": store.examples} | ({} if store.position == 1 else {"position": store.position})


def _measured_entry(model: ModelInput, fingerprint: str | None) -> dict[str, Any]:
    """The other weights that a model's metadata were measured on, where they were read."""
    if model.measured_on is None or fingerprint is None:
        return {}
    return {"measured_on": model.measured_on, "measured_fingerprint": fingerprint}


def recipe_of(request: MergeRequest) -> dict[str, Any]:
    """The resolved recipe, or one written from the request when it was made by hand."""
    if request.resolved_recipe:
        return dict(request.resolved_recipe)
    models = []
    for model in request.models:
        entry: dict[str, Any] = {"name": model.name, "path": model.path, "weight": model.weight}
        if model.metadata is not None:
            entry["metadata"] = str(model.metadata)
        if model.measured_on is not None:
            entry["measured_on"] = model.measured_on
        if model.sparsify is not None:
            entry["sparsify"] = model.sparsify.model_dump(mode="json")
        if model.adapter is not None:
            entry["adapter"] = model.adapter
        models.append(entry)
    heads = request.heads
    return {
        "base": request.base,
        "models": models,
        **({} if request.missing == "base" else {"missing": request.missing}),
        **(
            {}
            if request.adapters is None
            else {"adapters": request.adapters.model_dump(mode="json", exclude_unset=True)}
        ),
        **({} if request.vocab == "error" else {"vocab": request.vocab}),
        **({} if request.tokenizer is None else {"tokenizer": _tokenizer_entry(request.tokenizer)}),
        **({} if request.chat_template is None else {"chat_template": request.chat_template}),
        **({} if heads is None else {"heads": {"parameters": list(heads.parameters) or "auto", "from": heads.source}}),
        "merge": request.method.model_dump(mode="json"),
        "rules": [{"parameters": rule.parameters} | rule.method.model_dump(mode="json") for rule in request.rules],
        "dtype": request.dtype,
        "output": str(request.output),
    }


def _tokenizer_entry(choice: VocabularyChoice) -> dict[str, Any]:
    """A choice of vocabulary as a recipe has it."""
    tokens = {}
    for token, rule in choice.tokens.items():
        source: dict[str, Any] | None = None
        if rule.source is not None and rule.source.model is None:
            source = {"kind": "zero"}
        elif rule.source is not None:
            row = {"model": rule.source.model, "token": rule.source.token, "token_id": rule.source.row}
            source = {"kind": "model_token", **{key: value for key, value in row.items() if value is not None}}
        tokens[token] = {"source": source, "force": rule.force}
    return {"source": choice.source, "tokens": tokens, "pad_to_multiple_of": choice.pad_to_multiple_of}


def write_recipe(request: MergeRequest, folder: Path) -> None:
    """Write `recipe.yaml`: see `recipe_of`."""
    recipe = yaml.safe_dump(recipe_of(request), sort_keys=False, allow_unicode=True)
    write_bytes_atomically(folder / "recipe.yaml", recipe.encode())


def build_run_info(request: MergeRequest, started: float) -> dict[str, Any]:
    """`run.json`: times, memory, versions, device."""
    return {
        "started": datetime.fromtimestamp(started, tz=timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        "peak_memory_bytes": peak_memory(),
        "device": str(resolve_device(request.device)),
        "versions": {name: package_version(name) for name in ("mats", "torch", "safetensors")}
        | {"python": platform.python_version()},
    }


def package_version(name: str) -> str:
    """The installed version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _told_of(note: Any) -> list[Any]:
    """A tensor's entries: none, one, or of a tensor solved in parts one for each."""
    if note is None:
        return []
    return note if isinstance(note, list) else [note]
