"""`mats predict`: every task's loss at any weights, from the metadata alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mats.cli.arguments import DeviceOption, JsonOption, MemoryOption, RecipeArgument, is_override, with_options

if TYPE_CHECKING:
    from mats.engine.measured import Quantity
    from mats.engine.prediction import Prediction

CandidatesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CANDIDATE|KEY=VALUE",
        help="Checkpoints or merged folders (default: the recipe's result), and values that replace the recipe's.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("predict", short_help="Each task's loss at any weights, from metadata alone.")(predict)


def predict(
    recipe: RecipeArgument,
    candidates: CandidatesArgument = None,
    quantity: Annotated[
        str,
        typer.Option(
            "--quantity",
            metavar="NAME",
            help="loss, output_error (what input Grams alone tell), or auto: the loss where the metadata allow it.",
        ),
    ] = "auto",
    only_candidates: Annotated[
        bool, typer.Option("--only-candidates", help="Leave out the base and the models themselves.")
    ] = False,
    device: DeviceOption = None,
    memory_budget: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the rise of every task's loss at any weights, without data and without running a model.

    The table holds ½⟨W − W_i, C_i (W − W_i)⟩ over the parameters that have curvature; --json adds it by layer.

    \b
    Examples:
      mats predict recipe.yaml exp_out/merged exp_out/ties
      mats predict recipe.yaml --only-candidates --json
    """
    from mats.cli.printing import print_json
    from mats.cli.progress_display import progress_display
    from mats.recipes import load_recipe

    chosen = _quantity(quantity)
    paths = [argument for argument in candidates or () if not is_override(argument)]
    overrides = [argument for argument in candidates or () if is_override(argument)]
    loaded = load_recipe(recipe, with_options(overrides, device=device, memory_budget=memory_budget))

    from mats.recipes.predicting import named_candidates, prediction_request

    named = named_candidates(loaded, paths)
    request = prediction_request(loaded)

    from mats.engine.prediction import predict as predict_losses

    with progress_display(as_json=as_json) as progress:
        found = predict_losses(request, named, quantity=chosen, inputs_too=not only_candidates, progress=progress)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)


def _quantity(given: str) -> Quantity | None:
    """The quantity asked for; None for auto.

    Raises:
        RequestError: an unknown one.
    """
    from typing import cast

    from mats.errors import RequestError

    if given not in ("auto", "loss", "output_error"):
        raise RequestError(f"--quantity {given!r}: not known; auto, loss or output_error would be right")
    return None if given == "auto" else cast("Quantity", given)


def _print(found: Prediction) -> None:
    from mats.cli.printing import print_lines, print_table

    rows = [
        (candidate.name, *candidate.tasks.values(), candidate.mean(found.weights)) for candidate in found.candidates
    ]
    unit = found.to_json()["unit"]
    title = "predicted rise of the loss" if found.quantity == "loss" else "output error"
    print_table(f"{title}, {unit}", ("weights", *found.weights, "mean"), rows)
    print_lines([f"covers {found.covered:,} of {found.total:,} parameters ({100 * found.share:.1f} %)"])
