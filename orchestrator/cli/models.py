"""The commands `champion show` and `export`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from orchestrator.cli.application import app, champion_app
from orchestrator.cli.console import make_console, print_json, print_note
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    Json,
    MovedBase,
    Reference,
    Storage,
    TrackingUri,
)
from orchestrator.cli.output.tables import print_on, table
from orchestrator.records.mlflow.registry import champion_record
from orchestrator.records.model_folder import MODEL_FILE
from orchestrator.serving import export as export_module
from orchestrator.serving import find
from orchestrator.serving.hub.card import CARD
from orchestrator.serving.hub.card_facts import card_facts
from orchestrator.serving.hub.push import check_repository
from orchestrator.serving.hub.push import push as send
from orchestrator.system.formatting import show, show_interval, show_setting
from orchestrator.system.user_error import UsageError


@champion_app.command("show")
@answers_mistakes
def champion_show(
    name: Annotated[str, typer.Argument(help="The sweep's name.", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Show which trial is champion, why, and what it was made from."""
    record = champion_record(name, find.registry_uri(name, storage, tracking_uri), storage)
    if as_json:
        print_json(record)
        return
    title = f"{name}@champion: version {record['version']}, trial {record['trial']}"
    shown = table(title, "what", "value", left={"what", "value"})
    test = {"test": record.get("test") or "not read"}  # what nothing was chosen by comes first
    for key, value in _leaves({**test, **{k: v for k, v in record.items() if k != "test"}}):
        shown.add_row(Text(key), Text(value))
    print_on(make_console(), shown)


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "registered" and isinstance(value, float):
            yield prefix + key, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        elif key == "gain_interval" or prefix.endswith("minus."):
            yield prefix + key, show_interval(value)
        elif isinstance(value, float) and prefix.startswith(("measures.", "test.")):
            yield prefix + key, show(value)
        else:
            yield prefix + key, show_setting(key, value, exact=True)


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
