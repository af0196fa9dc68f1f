"""Tables of trials: settings, measures and state of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orchestrator.cli.output.tables import add_cells, natural_width, table
from orchestrator.registry.query.fields import MOMENTS
from orchestrator.system.formatting import (
    count,
    moment,
    show,
    show_duration,
    show_interval,
    show_setting,
)

Row = Mapping[str, Any]
"""A trial by the names of `registry.query.fields`, as the index gives it."""

_SHOWN_SETTINGS = {
    "method.adapter.kind": "kind",
    "method.adapter.r": "r",
    "method.adapter.alpha": "alpha",
    "method.adapter.temperature": "temp.",
    "training.learning_rate": "learn.\nrate",
}
_SHOWN_MEASURES = (
    "gain", "95 % interval", "accu-\nracy", "forget-\nting", "probe\ndrift", "sec-\nonds",
    "core\ntime", "state",
)  # fmt: skip
_NOT_SEARCHED = "comparison"
"""Who proposes the trials beside which an extension is read: their settings are not searched."""


def trial_tables(
    rows: Sequence[Row], width: int, title: str, objectives: Iterable[str] | None
) -> list[RenderableType]:
    """Trials with settings and measures, in two tables where one is too wide.

    Args:
        rows: The trials.
        width: Columns to lay the tables out for.
        title: What they are.
        objectives: Those of their sweep, for the legend; None: there is no front, or there are
            several.

    Returns:
        Tables, a legend, and why trials have failed.
    """
    several = len({row.get("sweep") for row in rows}) > 1
    set_by = {
        path
        for row in rows
        if row["by"] != _NOT_SEARCHED or row["of"]
        for path in row["overrides"] or {}
    }
    others = sorted(set_by - set(_SHOWN_SETTINGS))
    shown = _SHOWN_SETTINGS | {path: path.rsplit(".", 1)[-1] for path in others}
    words = {"trial", "kind", "state"}
    counted = ["exam-\nples"] if any(row["screened"] for row in rows) else []
    tested = ["test\ngain"] if any(row.get("test_gain") is not None for row in rows) else []
    measures = [*_SHOWN_MEASURES, *tested, *counted]
    cells = [
        (
            _marked(row, several=several),
            [show_setting(path, row.get(path)) for path in shown],
            [
                *_measure_cells(row),
                *(show(row.get("test_gain"), signed=True) for _ in tested),
                *(str(row["examples"] or 0) for _ in counted),
            ],
            _style(row),
        )
        for row in rows
    ]
    whole = table(title, "trial", *shown.values(), *measures, left=words)
    first = table(title, "trial", *measures, left=words)
    second = table("Settings", "trial", *shown.values(), left=words)
    for name, left, right, style in cells:
        add_cells(whole, [name, *left, *right], style)
        add_cells(first, [name, *right], style)
        add_cells(second, [name, *left], style)
    tables: list[RenderableType] = [whole]
    if natural_width(whole) > width:
        tables = [first, Text(), second]
    if objectives is not None:
        won = any(row["champion"] for row in rows)
        legend = ("* champion, " if won else "") + "+ on the front of " + ", ".join(objectives)
        if any(row["of"] is not None for row in rows):
            legend += ", = the same with a fresh seed"
        tables.append(Text(legend, style="dim"))
    failed = [row for row in rows if row["state"] == "FAILED"]
    tables += [
        Text(failure(_name(row, several=several), row["reason"], row["log"]), style="red")
        for row in failed
    ]
    return tables


def chosen_columns(rows: Sequence[Row], columns: Sequence[str], title: str) -> RenderableType:
    """Trials with the columns that the user has chosen.

    Args:
        rows: The trials.
        columns: Their names.
        title: What they are.

    Returns:
        A table.
    """
    texts = {name for name in columns if any(isinstance(row[name], str) for row in rows)}
    words = texts | (MOMENTS & set(columns))
    made = table(title, *columns, left=words)
    for row in rows:
        add_cells(made, [_cell(name, row[name]) for name in columns])
    return made


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    if isinstance(value, str):
        return value
    if name in MOMENTS:
        return moment(value)
    return show_setting(name, value)


def title_of(kind: str, name: str, progress: str) -> str:
    """The heading of one sweep's trials."""
    return f"{'Run' if kind == 'run' else 'Sweep'} {name}: {progress}"


def finished_words(done: int, total: int, *, ended: bool) -> str:
    """How many of a sweep's trials have ended."""
    many = count(total, "trial")
    if ended:
        return many if done == total else f"ended after {done} of {many}"
    return f"{done} of {many} finished so far"


def _marked(row: Row, *, several: bool) -> str:
    name = _name(row, several=several)
    if row["champion"]:
        return f"{name} *"
    used = " (in use)" if row.get("in_use") else ""
    if row["of"] is not None:
        return f"{name} = {row['of']}{used}"
    return f"{name} +{used}" if row["on_front"] else f"{name}{used}"


def _name(row: Row, *, several: bool) -> str:
    return f"{row['sweep']}/{row['trial']}" if several else row["trial"]


def _style(row: Row) -> str:
    if row["champion"]:
        return "bold green"
    return {"FAILED": "red", "STOPPED": "dim"}.get(row["state"], "")


def _measure_cells(row: Row) -> list[str]:
    return [
        show(row.get("gain"), signed=True),
        show_interval([row.get("gain_low"), row.get("gain_high")]),
        show(row.get("accuracy")),
        show(row.get("forgetting"), signed=True),
        show(row.get("probe_drift"), signed=True),
        show(row.get("cost_s"), digits=0),
        show_duration(row.get("core_seconds")),
        row["state"].lower(),
    ]


def failure(name: str, reason: str | None, log: str | None) -> str:
    """One sentence on a failed trial: why, and where its log is."""
    why = f"{name} failed: {reason or 'no reason was recorded'}"
    return f"{why} (log: {log})" if log else why
