"""The commands `champion show`, `compare`, `promote`, `rollback` and `history`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator.cli.application import champion_app
from orchestrator.cli.champions.tables import (
    champion_document,
    comparison_document,
    history_document,
    render_champion,
    render_comparison,
    render_history,
)
from orchestrator.cli.console import make_console, print_json, print_note
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Storage, TrackingUri
from orchestrator.cli.output.tables import print_on, table
from orchestrator.records.errors import RegistryError, UnknownModelError
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.mlflow.registry import champion_record
from orchestrator.registry.champions.champion import (
    champion,
    champion_names,
    history,
    no_champion,
)
from orchestrator.registry.champions.changing import promote, rollback
from orchestrator.registry.champions.comparison import compare
from orchestrator.serving.find import ModelUseError, registry_uri
from orchestrator.system.formatting import show, show_interval, show_setting

Name = Annotated[
    str,
    typer.Argument(
        help="The sweep's name.", show_default=False, autocompletion=completion.champions
    ),
]
Adapter = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP/TRIAL[@TASK]", help="An adapter: after its last task, or after TASK.",
        show_default=False, autocompletion=completion.sweeps_and_trials,
    ),
]  # fmt: skip
Reason = Annotated[
    str, typer.Option("--reason", help="Why; the history keeps it.", show_default=False)
]


@champion_app.command("show")
@answers_mistakes
def champion_show(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Show which adapter is champion, since when and why, what it knows and has forgotten."""
    if not (storage / name / JOURNAL_NAME).is_file() and name not in champion_names(storage):
        _show_registered(name, storage, tracking_uri, as_json)
        return
    found = champion(storage, name, tracking_uri=tracking_uri)
    if as_json:
        print_json(champion_document(found, storage))
    else:
        print_on(make_console(), render_champion(found))


@champion_app.command("history")
@answers_mistakes
def champion_history(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Show every champion of a name: since when, by whom, why, and on what evidence (`--json`)."""
    changes = history(storage, name, tracking_uri=tracking_uri)
    if as_json:
        print_json(history_document(changes))
    else:
        print_on(make_console(), render_history(name, changes))


@champion_app.command("compare")
@answers_mistakes
def champion_compare(
    name: Name,
    challenger: Adapter,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Compare an adapter with the champion on the same examples, with paired intervals."""
    found = compare(storage, name, challenger, tracking_uri=tracking_uri)
    if as_json:
        print_json(comparison_document(found))
    else:
        print_on(make_console(), render_comparison(found))


@champion_app.command("promote")
@answers_mistakes
def champion_promote(
    adapter: Adapter,
    reason: Reason,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Whose champion; by default the adapter's own sweep's.",
            autocompletion=completion.champions,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although something speaks against it; it is recorded.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make an adapter champion; refused where base or data differ or no test data were read."""
    made = promote(
        storage, adapter, reason=reason, name=to, force=force, tracking_uri=tracking_uri,
        note=print_note,
    )  # fmt: skip
    for sentence in made.overridden:
        print_note(f"promoted although {sentence}")
    typer.echo(f"{adapter} is the champion of {made.name} (line {made.n} of the registry).")


@champion_app.command("rollback")
@answers_mistakes
def champion_rollback(
    name: Name,
    reason: Reason,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make the champion before this one champion again; once more goes further back."""
    made = rollback(storage, name, reason=reason, tracking_uri=tracking_uri, note=print_note)
    back = "" if made.adapter is None else made.adapter.reference
    typer.echo(f"{back} is the champion of {name} again (line {made.n} of the registry).")


def _show_registered(name: str, storage: Path, uri: str | None, as_json: bool) -> None:
    """A champion of which MLflow's registry alone knows: its sweep is on another machine."""
    try:
        record = champion_record(name, registry_uri(name, storage, uri), storage)
    except ModelUseError:  # there is no registry
        raise RegistryError(no_champion(storage, name)) from None
    except UnknownModelError as error:
        raise RegistryError(f"{no_champion(storage, name)} In MLflow: {error}") from None
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
