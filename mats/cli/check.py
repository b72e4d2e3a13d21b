"""`mats check`: a recipe against the files it names, before any work."""

from __future__ import annotations

import typer

from mats.cli.arguments import JsonOption, RecipeArgument, output_and_overrides
from mats.cli.merge import RestArgument


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("check", short_help="List every problem of a recipe before any work.")(check)


def check(recipe: RecipeArgument, rest: RestArgument = None, as_json: JsonOption = False) -> None:
    """Compare a recipe with the files it names and list every problem; no tensor is read.

    Keys and values, paths, shapes, dataset files, metadata stores, the output, and the plan of the merge.

    \b
    Examples:
      mats check recipe.yaml
      mats check recipe.yaml exp_out/merged merge.method=regmean --json
    """
    from mats.cli.printing import print_json, print_lines
    from mats.errors import RecipeError
    from mats.recipes import load_recipe

    output, overrides = output_and_overrides(rest)
    try:
        loaded = load_recipe(recipe, overrides)
    except RecipeError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": list(error.faults), "exit_status": error.exit_status})
        raise typer.Exit(error.exit_status) from error

    from mats.recipes.checking import exit_status, find_problems
    from mats.recipes.fitting import formula_lines

    problems = find_problems(loaded, output)
    status = exit_status(problems)
    if as_json:
        messages = [problem.message for problem in problems]
        print_json({"ok": not problems, "problems": messages, "exit_status": status})
    elif problems:
        for problem in problems:
            typer.echo(f"mats: {problem.message}", err=True)
    else:
        notes = formula_lines(loaded.merge, loaded.merge.rules, loaded.models)
        print_lines([*notes, f"{recipe}: no problem found"])
    raise typer.Exit(status)
