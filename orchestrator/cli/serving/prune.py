"""The command `prune`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from rich.text import Text

from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json, print_note
from orchestrator.cli.errors import FAILED, answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Storage, TrackingUri
from orchestrator.cli.output.tables import print_on, table
from orchestrator.serving.pruning.plan import Plan, Rule, carry_out, plan, reasons_of, rows_of
from orchestrator.serving.pruning.storage import old_sweeps
from orchestrator.spec.budgets import duration
from orchestrator.system.byte_units import MIB
from orchestrator.system.formatting import count

_MOST_NAMED = 10


def _age(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
@answers_mistakes
def prune(
    sweeps: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sweeps; all of the storage folder where none is named.",
            autocompletion=completion.sweeps,
        ),
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(
            help="How long ago a trial must have ended, such as 30d.",
            parser=_age,
            metavar="DURATION",
        ),
    ] = "30d",  # pyright: ignore[reportArgumentType]
    keep: Annotated[
        Literal["front", "champions"],
        typer.Option(
            help="front: fronts and finalists keep all that they carry; champions: of those that "
            "were never champion the adapter alone stays.",
        ),
    ] = "front",
    caches: Annotated[
        bool, typer.Option("--caches", help="Also what is computed again when it is needed.")
    ] = False,
    runs: Annotated[
        bool, typer.Option("--runs", help="Also move the runs of pruned trials to MLflow's trash.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; otherwise it is only said what would go.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Remove old adapters that nothing needs; says what would go unless `--yes` is given."""
    rule = Rule(older_than, keep, caches, runs)
    found = old_sweeps(storage, tracking_uri)
    planned = plan(found, storage, rule, sweeps or ())
    trouble = carry_out(planned, found, rule) if yes else []
    if as_json:
        print_json(_document(planned, trouble, done=yes))
    else:
        _show(planned, done=yes)
    for line in trouble:
        print_note(line)
    if trouble:
        raise typer.Exit(FAILED)


def _show(planned: Plan, *, done: bool) -> None:
    if planned.pieces:
        title = "Pruned" if done else "Would be pruned"
        words = {"sweep", "what", "trials"}
        shown = table(title, "sweep", "what", "how many", "size", "trials", left=words)
        for row in rows_of(planned):
            shown.add_row(
                Text(row.sweep), row.what, str(row.count), f"{row.size / MIB:.2f} MiB",
                Text(_named(row.trials) or "-"),
            )  # fmt: skip
        print_on(make_console(), shown)
        typer.echo(f"{planned.size / MIB:.2f} MiB in all.")
    else:
        typer.echo("Nothing to prune.")
    for name, trials in planned.runs.items():
        moved = "moved" if done else "would move"
        typer.echo(f"{name}: {moved} {len(trials)} runs to MLflow's trash.")
    for name, why in planned.skipped.items():
        typer.echo(f"{name}: nothing goes, as {why}.")
    for name, kept in planned.kept.items():
        if kept and name not in planned.skipped:
            whys = "; ".join(f"{_named(who)} ({why})" for why, who in reasons_of(kept).items())
            typer.echo(f"{name}: {count(len(kept), 'trial')} stay, whatever their age: {whys}.")
    if not done and planned.pieces:
        typer.echo("Nothing was removed. Give the same command with `--yes` to do it.")


def _named(trials: Sequence[str]) -> str:
    """Trials by name, the first ten of them."""
    more = len(trials) - _MOST_NAMED
    return ", ".join(trials[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _document(planned: Plan, trouble: list[str], *, done: bool) -> dict[str, object]:
    return {
        "done": done,
        "bytes": planned.size,
        "pieces": [
            {"sweep": p.sweep, "trial": p.trial, "what": p.what, "path": str(p.path),
             "bytes": p.size}
            for p in planned.pieces
        ],
        "runs": {name: list(trials) for name, trials in planned.runs.items()},
        "kept": planned.kept,
        "skipped": planned.skipped,
        "trouble": trouble,
    }  # fmt: skip
