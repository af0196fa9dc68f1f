"""The commands `bundle` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json, print_note
from orchestrator.cli.errors import FAILED, answers_mistakes
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Reference, Storage, TrackingUri
from orchestrator.cli.output.tables import print_on, table
from orchestrator.serving import find
from orchestrator.serving.bundle import contents
from orchestrator.serving.bundle.verify import verify as verified
from orchestrator.system.user_error import UsageError


@app.command()
@answers_mistakes
def bundle(
    reference: Reference,
    to: Annotated[
        Path, typer.Option(help="The file to write.", metavar="FILE", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Put an adapter and all that accounts for choosing it into one file."""
    if to.exists() and (to.is_dir() or not force):
        raise UsageError(f"`--to` {to} is there already. Name another file, or give `--force`.")
    with find.model_folder(reference, storage, tracking_uri, note=print_note) as folder:
        try:
            made = contents.bundle(folder, storage, reference, to)
        except OSError as error:
            raise UsageError(f"`--to` {to} cannot be written: {error.strerror or error}.") from None
    if as_json:
        print_json({"model": reference, "file": str(to), **made})
        return
    size = to.stat().st_size
    typer.echo(f"Wrote {made['files']} files on {reference} to {to} ({size / 2**20:.2f} MiB).")
    typer.echo(f"Its manifest has the SHA-256 {made['sha256']}.")
    if made["licences_not_stated"]:
        print_note(
            f"no licence is known of {', '.join(made['licences_not_stated'])}; the file says so"
        )


@app.command()
@answers_mistakes
def verify(
    file: Annotated[Path, typer.Argument(help="What `bundle` has written.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Check a bundle, without network: hashes, the journal, and that all of it agrees."""
    found = verified(file)
    if as_json:
        print_json({
            "model": found.model, "manifest_sha256": found.manifest_sha256, "sound": found.sound,
            "checks": [vars(check) for check in found.checks],
        })  # fmt: skip
    else:
        shown = table(f"{found.model} in {file}", "what", "found", left={"what", "found"})
        for check in found.checks:
            said = (
                f"WRONG: {check.wrong}" if check.wrong else f"yes{check.note and ', '}{check.note}"
            )
            shown.add_row(Text(check.what), Text(said))
        print_on(make_console(), shown)
        typer.echo(f"SHA-256 of the manifest: {found.manifest_sha256}")
    if not found.sound:
        raise typer.Exit(FAILED)
