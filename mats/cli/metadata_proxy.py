"""`mats metadata proxy` and `mats metadata from-optimizer`: stores without any data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import JsonOption, OverwriteOption

StoreOption = Annotated[Path, typer.Option("--output", "-o", metavar="STORE", help="Where the store goes.")]
ModelOption = Annotated[str, typer.Option("--model", metavar="MODEL", help="The fine-tuned model: folder or hub id.")]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="What the store calls the model. Default: the end of its path.", show_default=False),
]


def proxy(
    base: Annotated[str, typer.Option("--base", metavar="MODEL", help="What the model was fine-tuned from.")],
    model: ModelOption,
    output: StoreOption,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="task_vector_gram (for mats, regmean), task_vector_root (the same, flatter) or task_vector_square "
            "(for fisher); default task_vector_gram.",
            show_default=False,
        ),
    ] = "task_vector_gram",
    name: NameOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a store from the change of the weights alone: a stand-in for curvature, where there is no data.

    A recipe names it under `metadata:` like any other; plans, reports and cards say that it is a proxy.

    \b
    Examples:
      mats metadata proxy --base models/base --model models/paws -o metadata/paws/proxy
      mats metadata proxy --base models/base --model models/paws -o metadata/paws/squares --kind task_vector_square
    """
    from mats.cli.progress_display import progress_display
    from mats.engine.proxies import write_proxy

    with progress_display(as_json=as_json) as progress:
        write_proxy(base, model, output, kind, name=name, overwrite=overwrite, progress=progress)
    _tell(output, as_json)


def from_optimizer(
    state: Annotated[
        Path, typer.Argument(metavar="STATE", help="optimizer.pt of a training checkpoint (Adam, AdamW).")
    ],
    model: ModelOption,
    output: StoreOption,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Examples in one update: the moments are multiplied by it.")
    ] = 1,
    order: Annotated[
        str | None,
        typer.Option(
            "--order",
            metavar="ORDER",
            help="How it numbered parameters: named, trainer or mats. Default: the one that fits.",
            show_default=False,
        ),
    ] = None,
    name: NameOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a diagonal store of Adam's second moments, which training has left behind.

    They are squares of *batch* gradients along the end of training, not of single examples at its end: a proxy of the
    diagonal Fisher information, and marked as one. No code in the file can run.

    \b
    Examples:
      mats metadata from-optimizer run/checkpoint-500/optimizer.pt --model run/checkpoint-500 -o metadata/paws/adam
      mats metadata from-optimizer optimizer.pt --model models/paws -o metadata/paws/adam --batch-size 32
    """
    from mats.cli.progress_display import progress_display
    from mats.engine.optimizer_state import write_optimizer_store

    with progress_display(as_json=as_json) as progress:
        write_optimizer_store(
            state, model, output, name=name, batch_size=batch_size, order=order, overwrite=overwrite, progress=progress
        )
    _tell(output, as_json)


def _tell(output: Path, as_json: bool) -> None:
    from mats.cli.printing import print_json, print_lines
    from mats.store import open_store

    store = open_store(output)
    kind = store.manifest.estimator["proxy"]
    size = sum(record.bytes for record in store.manifest.files.values())
    uncovered = len(store.manifest.uncovered)
    if as_json:
        print_json({"output": str(output), "proxy": kind, "sums": len(store), "bytes": size, "uncovered": uncovered})
    else:
        print_lines(
            [
                f"{output}: {len(store)} sums, {size:,} bytes, a proxy ({kind}); none for {uncovered} parameters",
                f"merge with it: `metadata: {output}` at this model in a recipe",
            ]
        )
