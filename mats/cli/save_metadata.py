"""`mats save-metadata`: step one, measure each model of a recipe on its own data."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mats.cli.arguments import (
    DeviceOption,
    DryRunOption,
    JsonOption,
    MemoryOption,
    OverridesArgument,
    OverwriteOption,
    RecipeArgument,
    TrustOption,
    only_overrides,
    with_options,
)

ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME", help="Measure this model alone; may be repeated.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("save-metadata", short_help="Step one: measure each model on its own data.")(save_metadata)


def save_metadata(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    model: ModelOption = None,
    dry_run: DryRunOption = False,
    device: DeviceOption = None,
    memory_budget: MemoryOption = None,
    overwrite: OverwriteOption = False,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure each model of a recipe on its own data, once; the stores outlive the merge.

    A complete store is kept as it is. Stopped half-way, the same command goes on where it was. Under accelerate
    launch the processes share the batches.

    \b
    Examples:
      mats save-metadata recipe.yaml
      mats save-metadata recipe.yaml curvature.examples=200 --model paws --device cuda
    """
    from mats.cli.printing import print_json, print_lines
    from mats.cli.progress_display import progress_display
    from mats.recipes import load_recipe

    loaded = load_recipe(recipe, with_options(only_overrides(overrides), device=device, memory_budget=memory_budget))

    from mats.engine.collection import plan_save_metadata
    from mats.engine.collection import save_metadata as measure
    from mats.engine.processes import together
    from mats.recipes.requests import collection_request, select_models

    requests = [
        collection_request(loaded, entry, overwrite=overwrite, trust_remote_code=trust_remote_code)
        for entry in select_models(loaded, model or ())
    ]
    if dry_run:
        plans = {request.name: plan_save_metadata(request) for request in requests}
        if as_json:
            print_json({"plans": [_plan_as_json(name, plan) for name, plan in plans.items()]})
        else:
            print_lines(f"{name}: {line}" for name, plan in plans.items() for line in plan.lines())
        return
    stores = []
    with together() as processes, progress_display(as_json=as_json) as progress:
        for request in requests:
            stores.append({"model": request.name, "metadata": str(measure(request, progress))})
    if not processes.is_first:
        return
    if as_json:
        print_json({"stores": stores})
    else:
        print_lines(f"{store['model']}: {store['metadata']}" for store in stores)


def _plan_as_json(name: str, plan: Any) -> dict[str, Any]:
    """A `SavePlan` for machines; what no rule covers is named in full."""
    value: dict[str, Any] = {
        "model": name,
        "metadata": str(plan.folder),
        "state": plan.state,
        "examples": plan.examples,
        "batches": plan.batches,
    }
    if plan.collection is not None:
        value |= {
            "layers": len(plan.collection.layers),
            "sites": len(plan.collection.sites),
            "bytes": plan.collection.bytes,
            "passes": len(plan.collection.partitions),
            "pass_bytes": list(plan.collection.partition_bytes),
            "model_bytes": plan.memory.model,
            "activation_bytes": plan.memory.activations,
            "accumulators": plan.memory.accumulators,
            "uncovered": dict(plan.collection.uncovered),
        }
    return value
