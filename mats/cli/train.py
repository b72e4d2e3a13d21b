"""`mats train`: fine-tune the models that are merged later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mats.cli.arguments import (
    DeviceOption,
    JsonOption,
    OverridesArgument,
    OverwriteOption,
    TrustOption,
    only_overrides,
    with_options,
)

if TYPE_CHECKING:
    from mats.training import TrainingPlan, TrainingRequest

TrainingRecipeArgument = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="Training recipe (YAML or JSON); see docs/training.md.", show_default=False),
]
RunOption = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="NAME", help="Only this run of the recipe; may be repeated.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("train", short_help="Fine-tune models on tasks: full, LoRA or (IA)³; resumable.")(train)


def train(
    recipe: TrainingRecipeArgument,
    overrides: OverridesArgument = None,
    run: RunOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print each run's sizes, and train nothing.")] = False,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune one model for each run of a training recipe. Several processes: accelerate launch -m mats.cli train …

    A finished run is kept as it is. Stopped half-way, the same command goes on at the last checkpoint, and ends with
    the same weights.

    \b
    Examples:
      mats train configs/training/dare_glue_roberta.yaml --run rte
      mats train configs/training/dare_glue_roberta.yaml train.seed=1 output=exp_out/train/seed_1 --dry-run
    """
    from mats.cli.printing import print_json, print_lines
    from mats.cli.progress_display import progress_display
    from mats.progress import Silent
    from mats.recipes.training import load_training_recipe

    loaded = load_training_recipe(recipe, with_options(only_overrides(overrides), device=device))

    from mats.recipes.training_requests import check_data, training_requests
    from mats.training import fine_tune, plan_training
    from mats.training.processes import is_first

    requests = training_requests(loaded, run or (), overwrite=overwrite, trust_remote_code=trust_remote_code)
    check_data(requests)
    if dry_run:
        plans = [plan_training(request) for request in requests]
        print_json({"runs": [_plan(plan) for plan in plans]}) if as_json else print_lines(map(_line, plans))
        return
    with progress_display(as_json=as_json) as shown:
        results = [_result(request, fine_tune(request, shown if is_first() else Silent())) for request in requests]
    if not is_first():
        return
    if as_json:
        print_json({"runs": results})
    else:
        print_lines(_told(result) for result in results)


def _plan(plan: TrainingPlan) -> dict[str, Any]:
    """What a run would do."""
    shape = plan.shape
    return {
        "name": plan.request.task_name,
        "base": str(plan.request.base),
        "output": str(plan.output),
        "finished": (plan.output / "training.json").is_file(),
        "examples": len(plan.data.items),
        "validation_examples": sum(map(len, plan.data.validation)),
        "updates": shape.updates,
        "batch_size": shape.batch_size,
        "micro_batch_size": shape.micro,
        "accumulation": shape.accumulation,
        "processes": shape.processes,
        "evaluate_every": plan.evaluate_every,
        "tuning": plan.request.settings.tuning.method,
        "device": plan.device,
    }


def _line(plan: TrainingPlan) -> str:
    shape = plan.shape
    return (
        f"{plan.request.task_name}: {plan.request.settings.tuning.method} tuning of {plan.request.base} on"
        f" {len(plan.data.items)} examples, {shape.updates} updates of {shape.batch_size} = {shape.micro} ×"
        f" {shape.accumulation} accumulated × {shape.processes} processes, evaluated every {plan.evaluate_every};"
        f" {'finished' if (plan.output / 'training.json').is_file() else 'would write'} {plan.output}"
    )


def _result(request: TrainingRequest, folder: Path) -> dict[str, Any]:
    """The outcome of a run, from its report."""
    from mats.training import read_report

    report = read_report(folder)
    results: dict[str, Any] = {}
    for evaluation in report["evaluations"]:
        if evaluation["updates"] == report["chosen"]["updates"]:
            results = evaluation["results"]
    return {
        "name": request.task_name,
        "output": str(folder),
        "updates": report["chosen"]["updates"],
        "score": report["chosen"]["score"],
        "results": results,
        "stopped_early": report["stopped_early"],
        "seconds": report["seconds"],
    }


def _told(result: dict[str, Any]) -> str:
    scores = ", ".join(f"{name} {entry['metric']} {entry['value']:.4f}" for name, entry in result["results"].items())
    return f"{result['name']}: {scores or 'not scored'} after {result['updates']} updates; {result['output']}"
