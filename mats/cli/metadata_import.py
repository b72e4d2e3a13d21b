"""`mats metadata import`: metadata files of the published MaTS code as a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import JsonOption, OverwriteOption


def import_(
    model: Annotated[str, typer.Option("--model", "-m", metavar="CHECKPOINT", help="The model that was measured.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the store goes.")],
    name: Annotated[
        str | None,
        typer.Option("--name", help="What recipes call the model; default: the last part of --model."),
    ] = None,
    input_gram: Annotated[
        Path | None, typer.Option("--input-gram", metavar="FILE", help="…_gram_matrix_input_activations_….pt.")
    ] = None,
    output_gram: Annotated[
        Path | None,
        typer.Option("--output-gram", metavar="FILE", help="…_gram_matrix_output_activation_gradients_….pt."),
    ] = None,
    diagonal: Annotated[
        Path | None, typer.Option("--diagonal", metavar="FILE", help="…_diagonal_empirical_fisher_….pt.")
    ] = None,
    block: Annotated[
        Path | None, typer.Option("--block", metavar="FILE", help="…_blockwise_empirical_fisher_….pt, of (IA)³.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="CHECKPOINT", help="The model under --model, where that is an adapter."),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", help="Examples measured; as published, at most 1000.")] = 1000,
    input_tokens: Annotated[
        int | None,
        typer.Option("--input-tokens", help="Tokens of all their inputs, which the files do not tell."),
    ] = None,
    target_tokens: Annotated[
        int | None,
        typer.Option("--target-tokens", help="Tokens of all their targets, which the files do not tell."),
    ] = None,
    data: Annotated[str, typer.Option("--data", help="Name of the dataset that was shown.")] = "unknown",
    split: Annotated[str, typer.Option("--split", help="Split of it that was shown.")] = "validation",
    sampled: Annotated[
        bool, typer.Option("--sampled", help="The files are `true`: labels were drawn from the model.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write metadata files that the published MaTS code saved as a store.

    The files are read without running code in them. They hold means, and not over how many tokens: unless
    --input-tokens and --target-tokens say so, merge with `scaling: tokens`, as the published code does.

    \b
    Examples:
      mats metadata import -m paws/checkpoint_399.pt --diagonal fisher.pt -o metadata/paws/published
      mats metadata import -m quartz/checkpoint_399.pt --input-gram a.pt --output-gram g.pt --examples 200 -o metadata/q
    """
    from mats.cli.printing import print_json, print_lines
    from mats.cli.progress_display import progress_display
    from mats.engine.imported import ImportRequest, import_metadata

    given = {"input_gram": input_gram, "output_gram": output_gram, "diagonal": diagonal, "block": block}
    request = ImportRequest(
        model=model,
        name=name or Path(model).stem,
        files={statistic: file for statistic, file in given.items() if file is not None},  # type: ignore[misc]
        output=output,
        base=base,
        examples=examples,
        input_tokens=input_tokens,
        target_tokens=target_tokens,
        data=data,
        split=split,
        sampled=sampled,
        overwrite=overwrite,
    )
    with progress_display(as_json=as_json) as progress:
        manifest = import_metadata(request, progress)
    counts = {
        "layers": len(manifest.layers),
        "parameters": len(manifest.parameters),
        "not_in_the_files": len(manifest.uncovered),
    }
    if as_json:
        print_json({"output": str(output), "examples": examples, "tokens_known": request.knows_tokens, **counts})
        return
    lines = [
        f"{output}: {counts['layers']} layers and {counts['parameters']} parameters of {request.name}, {examples} "
        f"examples; {counts['not_in_the_files']} parameters of the checkpoint are not in the files"
    ]
    if manifest.layers and not request.knows_tokens:
        lines.append("how many tokens the Grams are over is not known: merge with scaling=tokens, as published")
    print_lines(lines)
