"""What a finished run leaves: weights, config, tokenizer, and training.json, which says how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from mats.checkpoints import copy_companions, open_checkpoint
from mats.checkpoints.adapters import reference_of
from mats.errors import OutputExists, RequestError
from mats.files import write_json_atomically
from mats.training.history import Evaluation, best_of
from mats.training.plan import TrainingPlan
from mats.training.processes import process_count

REPORT = "training.json"
SCHEMA_VERSION = 1


def finished(plan: TrainingPlan) -> bool:
    """Whether the result is there already, made from the same settings, base and data.

    Raises:
        OutputExists: something else is there, and the request does not allow to replace it.
    """
    if not plan.output.exists():
        return False
    found = read_report(plan.output)
    if found.get("identity") == plan.identity:
        return True
    if plan.request.overwrite:
        return False
    what = _difference(found.get("identity"), plan.identity) if found else "no result of training"
    raise OutputExists(f"{plan.output}: exists already ({what}); choose another output or pass --overwrite")


def read_report(folder: Path) -> dict[str, Any]:
    """`training.json` of a finished run; empty where there is none."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """The first setting in which two runs differ."""
    if not isinstance(found, dict):
        return "of another kind"
    for key, value in wanted["settings"].items():
        there = found.get("settings", {}).get(key)
        if there != value:
            return f"made with {key} {there}, wanted {value}"
    return "made from another base" if found.get("base") != wanted["base"] else "made from other data"


def kept_folder(updates: int) -> str:
    """Where `keep: all` puts the weights after so many updates, below the result."""
    return f"checkpoints/update-{updates}"


def kept_checkpoint(folder: str | Path, *, updates: int | None = None, index: int | None = None) -> Path:
    """A model that `keep: all` kept, by the number of its updates or by its place among the evaluations.

    Args:
        folder: Of a finished run.
        updates: After how many updates.
        index: 0 for the first evaluation, −1 for the last; the published code counts so.

    Raises:
        RequestError: the run kept no checkpoints, or has none like this; those that it has are named.
    """
    folder = Path(folder)
    known = sorted(int(path.name.rpartition("-")[2]) for path in folder.glob(kept_folder(0).replace("0", "*")))
    if not known:
        raise RequestError(f"{folder}: no checkpoints were kept; a run with keep: all would be right")
    if (updates is None) == (index is None):
        raise RequestError("give updates or index, one of them")
    if index is not None:
        if not -len(known) <= index < len(known):
            raise RequestError(f"{folder}: no checkpoint {index}; there are {len(known)}")
        updates = known[index]
    if updates not in known:
        raise RequestError(f"{folder}: no checkpoint after {updates} updates; {', '.join(map(str, known))} are there")
    return folder / kept_folder(updates)


def write_models(folder: Path, plan: TrainingPlan, models: Sequence[nn.Module]) -> None:
    """Write one model into `folder`, or that of each dataset into a folder of its name below it."""
    base = plan.request.base
    if plan.request.heads == "one":
        _write_model(folder, base, models[0])
        return
    for spec, model in zip(plan.request.datasets, models, strict=True):
        _write_model(folder / spec.name, base, model)


def _write_model(folder: Path, base: str | Path, model: nn.Module) -> None:
    """Write a model (or an adapter) as `from_pretrained` loads it, with the base's tokenizer and licence."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter = getattr(model, "peft_config", None)
    with open_checkpoint(base) as checkpoint:
        copy_companions(checkpoint, folder)
        if adapter is not None:
            adapter["default"].base_model_name_or_path = reference_of(checkpoint)
    save: Any = model.save_pretrained
    save(folder, **({} if adapter is None else {"save_embedding_layers": False}))
    if adapter is not None:
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form that nobody filled in
        (folder / "config.json").unlink(missing_ok=True)  # the base's; the adapter has its own


def write_report(
    folder: Path,
    plan: TrainingPlan,
    history: Sequence[Evaluation],
    chosen: int,
    *,
    seconds: float,
    facts: dict[str, Any],
) -> None:
    """Write training.json.

    Args:
        folder: Of the result.
        plan: What was done.
        history: Every evaluation.
        chosen: After how many updates the weights of the result are.
        seconds: Wall time, interruptions left out.
        facts: About the model: numbers of parameters, names of fresh and of unused tensors.
    """
    import transformers

    best = best_of(history)
    done = history[-1].updates if history else plan.shape.updates
    report = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.request.task_name,
        "base": str(plan.request.base),
        "settings": plan.request.settings.model_dump(mode="json"),
        "identity": plan.identity,
        "model": facts,
        "batch": {**asdict(plan.shape), "updates_done": done, "evaluate_every": plan.evaluate_every},
        "stopped_early": done < plan.shape.updates,
        "chosen": {"updates": chosen, "score": next((e.score for e in history if e.updates == chosen), None)},
        "best": None if best is None else {"updates": best.updates, "score": best.score},
        "evaluations": [asdict(evaluation) for evaluation in history],
        "seconds": round(seconds, 3),
        "processes": process_count(),
        "device": plan.device,
        "versions": {"mats": version("mats"), "transformers": transformers.__version__},
    }
    write_json_atomically(folder / REPORT, json.loads(json.dumps(report)))
