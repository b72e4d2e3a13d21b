"""`mats harness`: EleutherAI's lm-evaluation-harness on merged models (extra `eval`), by transformers or vLLM."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mats.checkpoints.locate import Location, locate
from mats.errors import OutputExists, RequestError, WorkFailed
from mats.evaluation.versions import library_versions
from mats.files import explain_os_error, write_json_atomically
from mats.progress import Progress, Silent

SCHEMA_VERSION = 1
BACKENDS = ("hf", "vllm")
Backend = Literal["hf", "vllm"]
SimpleEvaluate = Callable[..., "dict[str, Any] | None"]


@dataclass(frozen=True)
class HarnessRequest:
    """Which models, on which tasks of the harness.

    Attributes:
        models: Folders (or hub ids) that `from_pretrained` loads, or adapter folders that name their base.
        tasks: Names of tasks, groups or tags that the harness knows.
        output: Folder for `<model>.json`, one for each model.
        backend: `hf` (transformers) or `vllm`, which must be installed.
        tensor_parallel_size: vllm: GPUs that one model is spread over.
        batch_size: A number, or `auto`.
        limit: Examples of each task: a number, or a fraction below 1; None: all.
        num_fewshot: Examples in the prompt; None: as each task says.
        seed: Of Python, NumPy, torch and the choice of few-shot examples.
        include_path: Folder with further task files (YAML).
        device: hf: `cpu`, `cuda`, …
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        apply_chat_template: Whether prompts are put into the tokenizer's chat template.
        log_samples: Whether every example's answer is kept in the file.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        overwrite: Replace results of other settings.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    output: Path
    backend: Backend = "hf"
    tensor_parallel_size: int = 1
    batch_size: int | str = 8
    limit: float | None = None
    num_fewshot: int | None = None
    seed: int = 1234
    include_path: Path | None = None
    device: str = "cpu"
    dtype: str = "auto"
    apply_chat_template: bool = False
    log_samples: bool = False
    trust_remote_code: bool = False
    overwrite: bool = False


def run_harness(
    request: HarnessRequest, progress: Progress | None = None, *, evaluate: SimpleEvaluate | None = None
) -> dict[str, Any]:
    """Run the harness on each model and write what it returns, with versions. A result of the same settings is kept.

    Args:
        request: What to run.
        progress: One step per model; the harness shows its own bars on stderr.
        evaluate: Called as `lm_eval.simple_evaluate`, which is the default.

    Returns:
        Ready for JSON: `models` (name, path, file, kept, results by task).

    Raises:
        RequestError: a wrong value, an unknown task, a model that is not there, or the harness (or vLLM) is not
            installed; before a model is loaded.
        OutputExists: a result of other settings is there.
        WorkFailed: the harness failed on a model.
    """
    _check_values(request)
    places = _places(request.models)
    files = [request.output / f"{name}.json" for name in places]
    kept = {file: _kept_result(file, _settings(request, place), request) for file, (_, place) in _pairs(files, places)}
    package = _harness(request.backend)
    run = evaluate or package.simple_evaluate
    manager = _task_manager(package, request)
    progress = progress or Silent()
    progress.start(f"harness: {', '.join(request.tasks)}", len(places))
    entries = []
    for file, (name, location) in _pairs(files, places):
        result = kept[file]
        if result is None:
            result = _result(request, location, run, manager)
            _write(file, result)
        entries.append(
            {"name": name, "path": str(location.path), "file": str(file), "kept": kept[file] is not None}
            | {"results": result["results"]["results"]}
        )
        progress.advance()
    return {"schema_version": SCHEMA_VERSION, "tasks": list(request.tasks), "models": entries}


def model_arguments(request: HarnessRequest, location: Location) -> dict[str, Any]:
    """The harness's `model_args` for one model.

    Raises:
        RequestError: an adapter that names no base.
    """
    arguments: dict[str, Any] = {"pretrained": str(location.path), "dtype": request.dtype}
    if location.adapter:
        base = (location.config or {}).get("base_model_name_or_path")
        if not base:
            raise RequestError(f"{location.path}: the adapter names no base; base_model_name_or_path would be right")
        key = "peft" if request.backend == "hf" else "lora_local_path"
        arguments = {**arguments, "pretrained": str(base), key: str(location.path)}
    if request.trust_remote_code:
        arguments["trust_remote_code"] = True
    if request.backend == "vllm":
        arguments |= {"tensor_parallel_size": request.tensor_parallel_size, "seed": request.seed}
    return arguments


def plain_json(value: Any) -> Any:
    """A value of the harness as JSON can hold it: what JSON has no word for as its text, and no infinite numbers."""
    if isinstance(value, dict):
        return {str(key): plain_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        return plain_json(value.item())
    return str(value)


def _check_values(request: HarnessRequest) -> None:
    if request.backend not in BACKENDS:
        raise RequestError(f"backend {request.backend!r}: unknown; {' or '.join(BACKENDS)} would be right")
    if not request.models:
        raise RequestError("no model; one or more folders would be right")
    if not request.tasks:
        raise RequestError("no task; --tasks with names of the harness would be right")
    if request.tensor_parallel_size < 1:
        raise RequestError(f"tensor_parallel_size {request.tensor_parallel_size}; 1 or more would be right")
    if request.tensor_parallel_size > 1 and request.backend != "vllm":
        raise RequestError(
            f"tensor_parallel_size {request.tensor_parallel_size}: only the backend vllm spreads a model"
        )
    if request.limit is not None and not request.limit > 0:
        raise RequestError(f"limit {request.limit}; a number of examples, or a fraction below 1, would be right")
    if not (request.batch_size == "auto" or (isinstance(request.batch_size, int) and request.batch_size >= 1)):
        raise RequestError(f"batch_size {request.batch_size!r}; 1 or more, or auto, would be right")
    if request.include_path is not None and not request.include_path.is_dir():
        raise RequestError(f"{request.include_path}: no such folder; one with task files (YAML) would be right")


def _places(models: Sequence[str]) -> dict[str, Location]:
    """Where each model is, by a name that is unique."""
    places: dict[str, Location] = {}
    for model in models:
        location = locate(model)
        if location.config is None or not location.path.is_dir():
            raise RequestError(f"{model}: no folder with a config.json; what mats merge wrote would be right")
        name = Path(model).name
        if name in places:
            raise RequestError(f"model name '{name}' is given twice; folders of different names would be right")
        places[name] = location
    return places


def _pairs(files: Sequence[Path], places: dict[str, Location]) -> list[tuple[Path, tuple[str, Location]]]:
    return list(zip(files, places.items(), strict=True))


def _settings(request: HarnessRequest, location: Location) -> dict[str, Any]:
    """Everything that a result depends on, the weights by their files."""
    files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in location.files]
    return {
        "backend": request.backend,
        "model_args": model_arguments(request, location),
        "weight_files": files,
        "tasks": list(request.tasks),
        "batch_size": request.batch_size,
        "limit": request.limit,
        "num_fewshot": request.num_fewshot,
        "seed": request.seed,
        "include_path": None if request.include_path is None else str(request.include_path),
        "device": request.device if request.backend == "hf" else None,
        "apply_chat_template": request.apply_chat_template,
        "log_samples": request.log_samples,
    }


def _kept_result(file: Path, settings: dict[str, Any], request: HarnessRequest) -> dict[str, Any] | None:
    """The result that is there, if it was made in the same way."""
    if not file.exists() or request.overwrite:
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if isinstance(content, dict) and content.get("settings") == json.loads(json.dumps(settings)):
        return content
    raise OutputExists(f"{file}: is there, made by other settings; choose another output or pass --overwrite")


def _harness(backend: Backend) -> Any:
    """The package `lm_eval`, with the backend's library beside it."""
    try:
        package = importlib.import_module("lm_eval")
        importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise RequestError(
            f"mats harness needs lm-evaluation-harness ({error}); pip install 'mats[eval]' would be right"
        ) from error
    if backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise RequestError(
            "backend vllm: the package vllm is not installed; backend hf, or pip install vllm, would be right"
        )
    return package


def _task_manager(package: Any, request: HarnessRequest) -> Any:
    """The harness's index of tasks, after a look whether it has those that are asked for."""
    folder = None if request.include_path is None else str(request.include_path)
    manager = package.tasks.TaskManager(include_path=folder)
    known = set(manager.all_tasks)
    unknown = [task for task in request.tasks if task not in known and not manager.match_tasks([task])]
    if unknown:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], known, n=3)
        raise RequestError(
            f"task '{unknown[0]}' is unknown to the harness{'; near: ' + ', '.join(near) if near else ''}"
        )
    return manager


def _result(request: HarnessRequest, location: Location, run: SimpleEvaluate, manager: Any) -> dict[str, Any]:
    """What the harness says about one model, with all that it depends on."""
    try:
        results = run(
            model=request.backend,
            model_args=model_arguments(request, location),
            tasks=list(request.tasks),
            num_fewshot=request.num_fewshot,
            batch_size=request.batch_size,
            device=request.device if request.backend == "hf" else None,
            limit=request.limit,
            log_samples=request.log_samples,
            apply_chat_template=request.apply_chat_template,
            task_manager=manager,
            random_seed=request.seed,
            numpy_random_seed=request.seed,
            torch_random_seed=request.seed,
            fewshot_random_seed=request.seed,
        )
    except (ValueError, KeyError, RuntimeError, OSError, AssertionError, ImportError) as error:
        line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise WorkFailed(f"{location.path}: the harness failed: {type(error).__name__}: {line[:300]}") from error
    if results is None:
        raise WorkFailed(f"{location.path}: the harness gave no results (only the first process of several has them)")
    return {
        "schema_version": SCHEMA_VERSION,
        "model": str(location.path),
        "settings": json.loads(json.dumps(_settings(request, location))),
        "versions": library_versions("lm_eval", "torch", "transformers", "datasets", "vllm"),
        "results": plain_json(results),
    }


def _write(file: Path, result: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, file.parent) from error
    write_json_atomically(file, result)
