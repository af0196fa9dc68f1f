"""What `runs list` prints: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import typer
from rich.text import Text

from orchestrator.cli.console import make_console, print_json, print_json_list, print_note
from orchestrator.cli.output.sweep_list import render_sweeps
from orchestrator.cli.output.tables import print_on
from orchestrator.cli.output.trials_table import (
    chosen_columns,
    finished_words,
    title_of,
    trial_tables,
)
from orchestrator.records.registry.in_use import words_of
from orchestrator.registry.index.index import Index
from orchestrator.registry.index.search import Page, Said
from orchestrator.registry.query.values import given
from orchestrator.system.formatting import count
from orchestrator.system.stores.opening import address_of

ROWS = 50
"""Of a table, unless `--limit` says otherwise."""
_SAID = Said("--filter", "--sort", "--columns")
_FIRST = ("trial", "state", "of", "on_front", "champion", "examples")
"""The first columns of a CSV file; `reason` is the last."""
_AFTER_MEASURES = ("test_gain", "test_gain_low", "test_gain_high", "core_seconds")
"""Of a CSV file, between measures with their intervals and settings."""

_AT_ONCE = 1000
"""Rows of a CSV file that are written at once."""
_MOST_COLUMNS = 500
"""Of one result of SQLite's."""
_PLAIN = frozenset((str, int, float, type(None)))
"""Types that are written into a CSV file as they are."""


@dataclass(frozen=True)
class Asked:
    """What is to be listed, and how."""

    sweeps: list[str] | None
    """None: all."""
    conditions: str | None
    order: list[str]
    limit: int | None
    """None: as is usual for the form; 0: all."""
    columns: list[str] | None
    form: Literal["table", "json", "csv"]

    @property
    def most(self) -> int | None:
        """How many rows are printed at most; None: all."""
        if self.limit is None:
            return ROWS if self.form == "table" else None
        return self.limit or None

    @property
    def one(self) -> str | None:
        """The sweep, where it is one."""
        return self.sweeps[0] if self.sweeps is not None and len(self.sweeps) == 1 else None


def print_sweeps(index: Index, asked: Asked) -> None:
    """List sweeps, oldest first; of many the newest."""
    every = index.sweeps()
    for row in every:
        if "problem" in row:
            typer.echo(f"orchestrate: left out: {row['problem']}", err=True)
    sound = [row for row in every if "problem" not in row]
    rows = sound if asked.most is None else sound[-asked.most :]
    if asked.form == "json":
        print_json(rows)
    elif rows:
        console = make_console()
        print_on(console, render_sweeps(rows, now=time.time(), width=console.width))
    else:
        typer.echo(
            f"No sweeps in {address_of(index.storage) or index.storage}. Start one with "
            "`orchestrate sweep FILE`."
        )
    if len(rows) < len(sound):
        print_note(f"the newest {len(rows)} of {len(sound):,} sweeps; `--limit 0` lists all.")


def print_trials(index: Index, asked: Asked) -> None:
    """List the trials that a filter keeps."""
    columns = asked.columns
    if columns is None and asked.form != "table":
        columns = _csv_columns(index, asked) if asked.form == "csv" else ["sweep", "trial"]
    if asked.form == "csv" and asked.most is None and len(columns or ()) <= _MOST_COLUMNS:
        _print_all(index, asked, columns or [])
        return
    page = index.search(
        asked.conditions, order=asked.order, limit=asked.most, sweep=asked.sweeps,
        columns=_with_names(columns) if asked.form == "table" else columns, said=_SAID,
    )  # fmt: skip
    if asked.form == "csv":
        # As bytes: the lines' ends must reach a file or a pipe as they are.
        sys.stdout.buffer.write(to_csv(page).encode())
        sys.stdout.flush()
    elif asked.form == "json":
        if asked.columns:
            print_json(page.rows)
        else:
            _print_documents(index, page)
    elif page.rows or not asked.conditions:
        _print_table(index, asked, page)
    else:
        among = sum(
            sum(row["trials_by_state"].values())
            for row in index.sweeps(asked.sweeps)
            if "problem" not in row
        )
        of = f" of {', '.join(asked.sweeps)}" if asked.sweeps else ""
        typer.echo(f"None of the {count(among, 'trial')}{of} fulfils the filter.")
    if len(page.rows) < page.total and asked.form != "csv":
        print_note(f"{len(page.rows)} of {page.total:,} trials; `--limit N` lists N, 0 all.")
    elif len(page.rows) < page.total:
        print_note(f"{len(page.rows)} of {page.total:,} trials.")


def _print_all(index: Index, asked: Asked, columns: Sequence[str]) -> None:
    """Every trial as CSV, a thousand at a time: all at once are a hundred megabytes."""
    fields = {field.name: field for field in index.fields(asked.sweeps)}
    cells = index.cells(
        asked.conditions, order=asked.order, sweep=asked.sweeps, columns=columns, said=_SAID
    )
    names = list(dict.fromkeys(columns))
    truths = [place for place, name in enumerate(names) if fields[name].kind == "truth"]
    written = [names]
    while written:
        sys.stdout.buffer.write(_csv_lines(written).encode())
        written = [_values(row, truths) for row in islice(cells, _AT_ONCE)]
    sys.stdout.flush()


def _values(row: Sequence[Any], truths: Sequence[int]) -> list[Any]:
    """The cells of a trial as a row of a search has them."""
    values = list(row)
    for place in truths:
        values[place] = bool(values[place])
    return [value if type(value) in _PLAIN else _cell(given(value)) for value in values]


def _with_names(columns: Sequence[str] | None) -> Sequence[str] | None:
    """Columns with those that say which trial a row is."""
    return None if columns is None else list(dict.fromkeys(["sweep", "trial", *columns]))


def _csv_columns(index: Index, asked: Asked) -> list[str]:
    """What a CSV file holds where no columns are chosen."""
    fields = index.fields(asked.sweeps)
    which = {
        group: [field.name for field in fields if field.group == group]
        for group in ("measure", "interval", "setting")
    }
    first = _FIRST if asked.one is not None else ("sweep", *_FIRST)
    measures = [*which["measure"], *which["interval"], *_AFTER_MEASURES]
    return [*first, *measures, *which["setting"], "reason"]


def _print_table(index: Index, asked: Asked, page: Page) -> None:
    console = make_console()
    title, objectives, words = count(page.total, "trial"), None, None
    if asked.one is not None:
        (sweep,) = index.sweeps([asked.one])
        ended = sweep["state"] == "ended"
        done = finished_words(sweep["trials_finished"], sweep["trials_planned"], ended=ended)
        title = title_of(sweep["kind"], asked.one, done)
        if asked.conditions:
            title += f", {page.total:,} chosen"
        if sweep["front"] or sweep["champion"]:
            objectives = sweep["objectives"]
        words = words_of(sweep["in_use"])
    if asked.columns is None:
        for shown in trial_tables(page.rows, console.width, title, objectives):
            print_on(console, shown)
        if words:
            print_on(console, Text(words, style="yellow"))
        return
    names = _with_names(asked.columns) or []
    if asked.one is not None and "sweep" not in asked.columns:
        names = [name for name in names if name != "sweep"]
    print_on(console, chosen_columns(page.rows, names, title))


def _print_documents(index: Index, page: Page) -> None:
    """Each trial as `runs show SWEEP TRIAL --json` has it, without its reports."""
    # What knows the documents takes a quarter of a second to load.
    from orchestrator.cli.output.documents import trial_texts

    names = [(row["sweep"], row["trial"]) for row in page.rows]
    print_json_list(trial_texts(index, names, named=True))


def to_csv(page: Page) -> str:
    """Trials as CSV (RFC 4180): a heading, then a line per trial, lines ended by CRLF.

    Args:
        page: The trials.

    Returns:
        The text; what was not measured or not set is an empty cell.
    """
    rows = [
        [value if type(value) in _PLAIN else _cell(value) for value in row.values()]
        for row in page.rows
    ]
    return _csv_lines([page.columns, *rows])


def _csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)
