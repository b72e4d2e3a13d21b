"""`mats metadata export`: a store as a folder for the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import JsonOption, OverwriteOption


def export(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Store to publish; it stays as it is.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to upload.")],
    license_id: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="License, as the hub writes it: apache-2.0.", show_default=False),
    ] = None,
    repository: Annotated[
        str,
        typer.Option(
            "--repo-id", metavar="OWNER/NAME", help="Where it will lie, for the lines that show how to use it."
        ),
    ] = "OWNER/NAME",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a folder of a store that can be uploaded to a hub repository as it is, and merged with from there.

    It holds the store, a card (README.md), a LICENSE note and checksums. Paths of this machine are taken out of the
    manifest; fingerprints stay, so that a merge still knows the weights that were measured.

    \b
    Examples:
      mats metadata export metadata/paws/whole -o exp_out/paws-metadata --license apache-2.0
      mats metadata export metadata/paws/whole -o exp_out/paws-metadata --repo-id someone/paws-metadata
    """
    import re

    from mats.cli.printing import print_json, print_lines
    from mats.cli.progress_display import progress_display
    from mats.errors import RequestError
    from mats.reporting.store_card import license_note, store_card
    from mats.store.export import export_store
    from mats.store.hub import STORE_ID

    if (named := STORE_ID.fullmatch(repository)) is None or named["repository"] != repository:
        raise RequestError(f"--repo-id {repository!r}: owner/name would be right")
    if license_id is not None and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id) is None:
        raise RequestError(
            f"--license {license_id!r}: the hub's identifier in small letters, as apache-2.0, would be right"
        )
    with progress_display(as_json=as_json) as progress:
        manifest = export_store(
            store,
            output,
            lambda published, run: store_card(published, run, license_id=license_id, repository=repository),
            license_note(license_id, store.name),
            overwrite=overwrite,
            progress=progress,
        )
    size = sum(record.bytes for record in manifest.files.values())
    if as_json:
        print_json({"output": str(output), "bytes": size, "model": manifest.model.source, "license": license_id})
    else:
        print_lines(
            [
                f"{output}: {size:,} bytes of sums; upload the folder as it is, as with",
                f"  hf upload {repository} {output}",
            ]
        )
