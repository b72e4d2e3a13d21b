"""`mats metadata`: stores added, verified, made smaller, published, or made without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import JsonOption, OverwriteOption
from mats.cli.metadata_compress import compress
from mats.cli.metadata_export import export
from mats.cli.metadata_import import import_
from mats.cli.metadata_proxy import from_optimizer, proxy


def register(app: typer.Typer) -> None:
    """Add the group of commands to the program."""
    group = typer.Typer(
        name="metadata",
        short_help="Add, verify, compress, publish or make stores.",
        help="Add stores, verify that they are whole, make them smaller, publish them, or make them without any data.",
        rich_markup_mode=None,
    )
    group.command("add")(add)
    group.command("verify")(verify)
    group.command("compress", short_help="Write a smaller copy of a store.")(compress)
    group.command("proxy", short_help="Make a store from the change of weights alone.")(proxy)
    group.command("from-optimizer", short_help="Make a store of Adam's second moments.")(from_optimizer)
    group.command("export", short_help="Make a folder of a store for the hub.")(export)
    group.command("import", short_help="Write metadata files of the published MaTS code as a store.")(import_)
    app.add_typer(group)


def add(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Stores to add, two or more.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the sum goes.")],
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Add compressed stores too; the result is written in float32.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add stores of one model, measured in the same way on disjoint examples.

    \b
    Examples:
      mats metadata add metadata/paws/first metadata/paws/second -o metadata/paws/whole
      mats metadata add metadata/paws/day-1 metadata/paws/day-2 metadata/paws/day-3 -o metadata/paws/all --json
    """
    from mats.cli.printing import print_json, print_lines
    from mats.errors import RequestError
    from mats.store import add_stores, open_store

    if len(stores) < 2:
        raise RequestError(f"{len(stores)} store given; two or more would be right")
    add_stores(stores, output, overwrite=overwrite, accept_loss=accept_loss)
    examples = open_store(output).examples
    if as_json:
        print_json({"output": str(output), "stores": [str(store) for store in stores], "examples": examples})
    else:
        print_lines(
            [
                f"{output}: {examples} examples of {len(stores)} stores",
                f"merge with it: `metadata: {output}` at this model in a recipe",
            ]
        )


def verify(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Stores to verify.")],
    as_json: JsonOption = False,
) -> None:
    """Read stores through: schema, shapes, checksums, finite numbers. Exit status 1 if one is not whole.

    \b
    Examples:
      mats metadata verify metadata/paws/paws-validation-empirical-mean-1f2e3d4c
      mats metadata verify metadata/*/* --json
    """
    from mats.cli.printing import print_json, print_lines
    from mats.errors import StoreCorrupt
    from mats.store import verify_store

    faults = {str(store): verify_store(store) for store in stores}
    faulty = [fault for found in faults.values() for fault in found]
    if as_json:
        print_json({"ok": not faulty, "faults": faults, "exit_status": StoreCorrupt.exit_status if faulty else 0})
        raise typer.Exit(StoreCorrupt.exit_status if faulty else 0)
    print_lines(f"{store}: whole" for store, found in faults.items() if not found)
    if faulty:
        raise StoreCorrupt("\n".join(faulty))
