"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.cli.application import app
from orchestrator.cli.console import print_note
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    MovedBase,
    Reference,
    Storage,
    TrackingUri,
)
from orchestrator.records.model_folder import MODEL_FILE
from orchestrator.serving import export as export_module
from orchestrator.serving import find
from orchestrator.serving.hub.card import CARD
from orchestrator.serving.hub.card_facts import card_facts
from orchestrator.serving.hub.push import check_repository
from orchestrator.serving.hub.push import push as send
from orchestrator.system.user_error import UsageError


@app.command()
@answers_mistakes
def export(
    reference: Reference,
    form: Annotated[
        Literal["lora", "merged", "adapter"],
        typer.Option(
            "--as",
            "--format",
            help="lora: a plain LoRA adapter; merged: a whole model; adapter: the model folder.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path, typer.Option(help="A folder, new or empty.", metavar="DIR", show_default=False)
    ],
    push: Annotated[
        str | None,
        typer.Option(
            help="Send it to this repository of the Hugging Face hub; made, and private, where it "
            "is not there.",
            metavar="OWNER/NAME",
            show_default=False,
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see a repository that `--push` makes.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    base: MovedBase = None,
) -> None:
    """Write a trained adapter for use elsewhere, with a model card."""
    if push is not None:
        check_repository(push)
    elif public:
        raise UsageError("`--public` says how `--push` makes a repository; give that as well.")
    _check_target(to)
    with find.model_folder(reference, storage, tracking_uri, note=print_note) as folder:
        facts = card_facts(folder, storage, reference)
        heads = export_module.export(folder, form, to, facts, base=base, repository=push)
    size = sum(file.stat().st_size for file in to.rglob("*") if file.is_file())
    typer.echo(f"Wrote {reference} as {form} to {to} ({size / 2**20:.2f} MiB).")
    if heads:
        labels = MODEL_FILE if form == "adapter" else export_module.HEAD_LABELS_FILE
        typer.echo(
            f"The tasks {', '.join(heads)} are answered by linear heads on the last hidden state: "
            f"{export_module.HEADS_FILE}, whose rows stand for the labels in {labels}."
        )
    typer.echo(f"Its model card, {CARD}, states no licence: choose one before you publish it.")
    if push is not None:
        typer.echo(f"Sent to {send(to, push, public=public)}.")


def _check_target(to: Path) -> None:
    """Make the target folder.

    Args:
        to: What the user gave.

    Raises:
        UsageError: If it is not new or empty, or cannot be made.
    """
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError(f"`--to` {to} is there already and not empty. Name a new folder.")
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`--to` {to} cannot be made: {error.strerror or error}.") from None
