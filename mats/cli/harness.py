"""`mats harness`: EleutherAI's lm-evaluation-harness on merged models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mats.cli.arguments import JsonOption, OverwriteOption, TrustOption
from mats.errors import RequestError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("harness", short_help="Run lm-evaluation-harness on merged models.")(harness)


def harness(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folders of models or adapters, or hub ids.")],
    tasks: Annotated[str, typer.Option("--tasks", metavar="NAMES", help="Tasks of the harness, joined by commas.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for MODEL.json, one for each model.")
    ],
    backend: Annotated[str, typer.Option("--backend", metavar="NAME", help="hf (transformers) or vllm.")] = "hf",
    tensor_parallel_size: Annotated[
        int, typer.Option("--tensor-parallel-size", metavar="N", min=1, help="vllm: GPUs that hold one model.")
    ] = 1,
    limit: Annotated[
        float | None, typer.Option("--limit", metavar="N", help="Examples of each task, or a fraction below 1.")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option("--num-fewshot", metavar="N", min=0, help="Examples in the prompt. Default: the task's."),
    ] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", metavar="N", help="Requests at once, or auto.")] = "8",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of all that is random.")] = 1234,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", metavar="FOLDER", help="Further task files of the harness.")
    ] = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Use the tokenizer's chat template.")] = False,
    log_samples: Annotated[bool, typer.Option("--log-samples", help="Keep each example's answer in the file.")] = False,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="hf: auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16.")] = "auto",
    overwrite: OverwriteOption = False,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run tasks of EleutherAI's lm-evaluation-harness on models; needs the extra eval, and vLLM for its backend.

    A result of the same settings is kept; one of others is replaced only with --overwrite.

    \b
    Examples:
      mats harness exp_out/merged --tasks gsm8k,hendrycks_math -o exp_out/harness
      mats harness exp_out/merged --tasks mmlu --backend vllm --tensor-parallel-size 4 -o exp_out/harness
    """
    from mats.cli.printing import print_json
    from mats.cli.progress_display import progress_display
    from mats.engine.devices import resolve_device
    from mats.evaluation.harness import HarnessRequest, run_harness

    request = HarnessRequest(
        tuple(models),
        tuple(name.strip() for name in tasks.split(",") if name.strip()),
        output,
        backend=backend,  # type: ignore[arg-type]  # checked by run_harness
        tensor_parallel_size=tensor_parallel_size,
        batch_size=_batch_size(batch_size),
        limit=limit,
        num_fewshot=num_fewshot,
        seed=seed,
        include_path=include_path,
        device=str(resolve_device(device)),
        dtype=dtype,
        apply_chat_template=chat_template,
        log_samples=log_samples,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
    )
    with progress_display(as_json=as_json) as progress:
        summary = run_harness(request, progress)
    if as_json:
        print_json(summary)
    else:
        _print_results(summary)


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal():
        raise RequestError(f"--batch-size {text!r}: a number, or auto, would be right")
    return int(text)


def _print_results(summary: dict[str, Any]) -> None:
    """One row per model, task and metric."""
    from mats.cli.printing import print_lines, print_table

    rows = []
    for entry in summary["models"]:
        for task, metrics in entry["results"].items():
            for key, value in metrics.items():
                metric, _, filtered = key.partition(",")
                if isinstance(value, (int, float)) and "stderr" not in metric and filtered:
                    error = metrics.get(f"{metric}_stderr,{filtered}")
                    spread = f"{error:.4f}" if isinstance(error, float) else "–"
                    rows.append((entry["name"], task, metric, filtered, f"{value:.4f}", spread))
    print_table("", ("model", "task", "metric", "filter", "value", "standard error"), rows)
    print_lines(entry["file"] + (" (kept)" if entry["kept"] else "") for entry in summary["models"])
