"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.listing import completion
from orchestrator.cli.listing.completion import DEFAULT_STORAGE
from orchestrator.spec.budgets import duration
from orchestrator.system.stores.address import wrong_storage
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.opening import address_of, opened
from orchestrator.system.user_error import UsageError

File = Annotated[Path, typer.Argument(help="The experiment file (YAML).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]


def _folder(storage: str | Path) -> Path:
    """The storage folder of an option; of an address, where what it holds was fetched to."""
    wrong = wrong_storage(str(storage))
    if wrong is not None:
        raise typer.BadParameter(wrong)
    try:
        return opened(storage)
    except StoreError as error:
        raise typer.BadParameter(str(error)) from None


Storage = Annotated[
    Path,
    typer.Option(
        help="The folder or address (s3://BUCKET/PREFIX) that sweeps are kept in.",
        parser=_folder,
        metavar="DIR",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="Where MLflow records; by default SQLite in the storage folder. An address with a "
        "password is better given in the environment, which other users cannot read.",
        envvar="ORCHESTRATOR_TRACKING_URI",
    ),
]
MovedBase = Annotated[
    Path | None,
    typer.Option(
        "--base",
        help="Where the base model is now, if it was moved since training.",
        metavar="DIR",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, for example auto; by default this machine."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="ORCHESTRATOR_DATA_ROOT",
        help="Read every task from DIR/<name>/<split>.jsonl[.gz] where that folder exists.",
        metavar="DIR",
    ),
]
New = Annotated[bool, typer.Option("--new", help="Start another sweep instead of continuing.")]
Retry = Annotated[
    bool, typer.Option("--retry-failed", help="Run trials that failed again, from their start.")
]


def _duration(text: str) -> str:
    """A duration of an option, checked."""
    try:
        duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


TimeBudget = Annotated[
    str | None,
    typer.Option(
        help="How long the sweep may take in all, such as 30min or 8h; instead of "
        "`search.time_budget`.",
        parser=_duration,
        metavar="DURATION",
        show_default=False,
    ),
]


def given_places(
    address: str | None, data_root: Path | None, storage: Path, base: Path | None
) -> dict[str, object]:
    """The options that say where things are, as `command_again` takes them."""
    return {
        "--address": address, "--data-root": data_root, "--base": base,
        "--storage": None if storage == DEFAULT_STORAGE else address_of(storage) or storage,
    }  # fmt: skip


def check_storage(storage: Path) -> None:
    """Refuse a `--storage` that is no folder: it was named wrongly, and holds no sweeps."""
    if not storage.is_dir():
        raise UsageError(
            f"No sweeps in {storage}, which is no folder. Start one with `orchestrate sweep FILE`, "
            "or name another folder by `--storage`."
        )


def check_data_root(data_root: Path | None) -> None:
    """Refuse a `--data-root` that is no folder."""
    if data_root is not None and not data_root.is_dir():
        raise UsageError(f"`--data-root` (or ORCHESTRATOR_DATA_ROOT): {data_root} is no folder.")


NewName = Annotated[
    str | None,
    typer.Option("--name", help="Of the new sweep; by default after the trial and its tasks."),
]
Reference = Annotated[
    str,
    typer.Argument(
        help="NAME@champion, NAME/VERSION, SWEEP/TRIAL, SWEEP/TRIAL@TASK, or a model folder.",
        show_default=False,
        autocompletion=completion.references,
    ),
]
Sweep = Annotated[
    str, typer.Argument(metavar="SWEEP", show_default=False, autocompletion=completion.sweeps)
]
