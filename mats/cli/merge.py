"""`mats merge`: step two, solve for the weights that serve every model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mats.cli.arguments import (
    DeviceOption,
    DryRunOption,
    JsonOption,
    MemoryOption,
    OverwriteOption,
    RecipeArgument,
    output_and_overrides,
)
from mats.errors import RequestError

if TYPE_CHECKING:
    from mats.engine.merging import MergeResult
    from mats.engine.request import MergeRequest

RestArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OUT|KEY=VALUE",
        help="Output folder (default: the recipe's), and values that replace the recipe's, as merge.anchor=0.2.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("merge", short_help="Step two: solve for the weights that serve every model.")(merge)


def merge(
    recipe: RecipeArgument,
    rest: RestArgument = None,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 when a solve missed its tolerance; the output is written.")
    ] = False,
    vocab: Annotated[
        str | None,
        typer.Option(
            "--vocab",
            metavar="WORD",
            help="When vocabularies differ: error, base or union. Default: the recipe's.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    cuda: Annotated[bool, typer.Option("--cuda", help="The same as --device cuda.")] = False,
    memory_budget: MemoryOption = None,
    out_shard_size: Annotated[
        str | None,
        typer.Option(
            "--out-shard-size",
            metavar="SIZE",
            help="Largest file of weights, as 2GB; k, m and b alone are thousands, millions and billions of bytes. "
            "Default: 5GB, or the recipe's.",
            show_default=False,
        ),
    ] = None,
    random_seed: Annotated[
        int | None,
        typer.Option(
            "--random-seed",
            "--seed",
            min=0,
            help="Seed of random choices. Default: 0, or the recipe's.",
            show_default=False,
        ),
    ] = None,
    from_ties: Annotated[
        str | None,
        typer.Option(
            "--from-ties",
            metavar="STRING",
            help="Merge as a string of the published TIES code says, instead of the recipe's method: "
            "trim_elect_aggregate_scale. Several scales are several merges, OUT/scale-0.8 and so on.",
            show_default=False,
        ),
    ] = None,
    from_dem: Annotated[
        bool,
        typer.Option(
            "--from-dem",
            help="RECIPE is a DEM configuration (JSON, comments allowed). Several combinations of its constants are "
            "several merges, OUT/<combination_id>/<constants>.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge the models of a recipe into one folder that from_pretrained loads, with a report.

    RECIPE may be a merge file of mergekit (it has the key merge_method). Stopped half-way, the same command goes on
    where it was; OUT appears when it is complete.

    \b
    Examples:
      mats merge recipe.yaml exp_out/merged
      mats merge recipe.yaml exp_out/ties merge.method=ties merge.density=0.1 --dry-run
    """
    from mats.cli.merge_dem import dem_requests
    from mats.cli.merge_ties import ties_requests
    from mats.cli.requested import MergeOptions, requested_merge

    output, overrides = output_and_overrides(rest)
    if cuda and device not in (None, "cuda"):
        raise RequestError(f"--cuda with --device {device}: one of the two would be right")
    options = MergeOptions(
        overwrite, strict, vocab, "cuda" if cuda else device, memory_budget, out_shard_size, random_seed
    )
    if from_dem and from_ties is not None:
        raise RequestError("--from-dem and --from-ties: one of them at a time would be right")
    requests: tuple[MergeRequest, ...]
    if from_dem:
        requests = dem_requests(recipe, output, overrides, options)
    elif from_ties is None:
        requests = (requested_merge(recipe, output, overrides, options),)
    else:
        requests = ties_requests(from_ties, recipe, output, overrides, options)
    if dry_run:
        _show_plans(requests, as_json=as_json)
    else:
        # scales of one string differ in nothing else; an adapter as output is merged in another way
        one_pass = from_ties is not None and not any(request.makes_adapter for request in requests)
        carry_out(requests, one_pass=one_pass, as_json=as_json)


def _show_plans(requests: Sequence[MergeRequest], *, as_json: bool) -> None:
    from mats.cli.printing import print_json, print_lines

    plans = [_plan(request) for request in requests]
    if as_json:
        told = [{key: value for key, value in plan.items() if key != "lines"} for plan in plans]
        print_json(told[0] if len(told) == 1 else {"merges": told})
    else:
        print_lines([line for plan in plans for line in plan["lines"]])


def _results(requests: Sequence[MergeRequest], *, one_pass: bool, as_json: bool) -> Iterator[MergeResult]:
    """Every merge done, one after another or all in one pass over the models."""
    from mats.cli.progress_display import progress_display
    from mats.engine.merging import merge as merge_models
    from mats.engine.variants import merge_variants

    if one_pass and len(requests) > 1:
        with progress_display(as_json=as_json) as progress:
            results = merge_variants(requests, progress)
        yield from results
        return
    for request in requests:
        with progress_display(as_json=as_json) as progress:
            result = merge_models(request, progress)
        yield result


def carry_out(requests: Sequence[MergeRequest], *, one_pass: bool, as_json: bool) -> None:
    """Do the merges, in one pass over the models or one after another, and tell what came out."""
    from mats.cli.printing import print_json, print_lines, print_rich
    from mats.engine.processes import launched
    from mats.reporting import summary, validate_report

    told = []
    for result in _results(requests, one_pass=one_pass, as_json=as_json):
        if launched()[0] > 0:  # of several processes the first speaks
            continue
        told.append(_summary(result))
        if not as_json:
            print_rich(summary(validate_report(result.report)))
            print_lines([str(result.path)])
    if launched()[0] > 0:
        return
    if as_json:
        print_json(told[0] if len(told) == 1 else {"merges": told})
    elif not told:
        print_lines(["every merge has been done already"])


def _plan(request: MergeRequest) -> dict[str, Any]:
    """What the merge would do and take, in words and in numbers."""
    from mats.engine.describing import describe_plan
    from mats.engine.plan import plan_merge

    plan = plan_merge(request)
    return {
        "lines": [*describe_plan(plan, request), f"would write {request.output}"],
        "output": str(request.output),
        "method": request.method.name,
        "tensors": len(plan.tensors),
        "groups": len(plan.groups),
        "parameters_by_rule": dict(plan.by_rule),
        "peak_bytes": plan.peak_bytes,
        "output_bytes": plan.output_bytes,
        "missing": {model: list(names) for model, names in plan.missing.items() if names},
        "extra": {model: list(names) for model, names in plan.extra.items() if names},
        "fallbacks": dict(plan.fallbacks),
        "notes": list(plan.notes),
        "memory_notes": list(plan.memory_notes),
    }


def _summary(result: MergeResult) -> dict[str, Any]:
    """The report in a few numbers; report.json has them all."""
    from mats.reporting import validate_report
    from mats.reporting.summary import solved_layers, unconverged, worst_residual

    report = validate_report(result.report)
    worst = worst_residual(report)
    return {
        "output": str(result.path),
        "method": report["method"],
        "models": [model["name"] for model in report["models"]],
        "parameters": report["parameters"],
        "systems_solved": len(solved_layers(report)),
        "unconverged": [layer["name"] for layer in unconverged(report)],
        "largest_relative_residual": None if worst is None else worst.get("relative_residual"),
        "report": str(result.path / "report.json"),
    }
