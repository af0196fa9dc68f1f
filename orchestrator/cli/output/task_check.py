"""What was found out about a task, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.data.inspect_facts import ROWS_TOKENISED, SPLITS, Sample, TaskCheck
from orchestrator.system.formatting import count, show

LABELS_SHOWN = 12


def render(check: TaskCheck) -> RenderableType:
    """The facts for people.

    Args:
        check: What was found.

    Returns:
        Tables, rendered prompts and warnings.
    """
    head = ", by a linear head" if check.head == "linear" else ""
    title = Text.assemble((check.name, "bold"), f"  {check.kind.replace('_', ' ')}{head}")
    parts: list[RenderableType] = [title]
    parts += [Text(" ".join(check.description.split()))] if check.description else []
    parts += [Text(check.place, style="dim", overflow="fold"), Text(), _split_table(check)]
    parts += [Text(line) for line in _counts(check)]
    if any(part.labels for part in check.splits.values()):
        parts += [Text(), _label_table(check)]
    parts += [Text(), _scores(check)] if check.chance is not None else []
    for number, sample in enumerate(check.samples, start=1):
        parts += [Text(), *_sample(number, sample)]
    parts.append(Text())
    if not check.warnings:
        parts.append(Text("Nothing looks wrong.", style="green"))
    for warning in check.warnings:
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(Text("WARN", style="yellow"), Text(warning))
        parts.append(row)
    return Group(*parts)


def _split_table(check: TaskCheck) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("split", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("repeated", justify="right", no_wrap=True)
    measured = check.max_length is not None
    unit = "tokens" if any(part.tokens for part in check.splits.values()) else "characters"
    table.add_column(f"{unit}: median, most", justify="right", no_wrap=True)
    if measured:
        table.add_column(f"over {check.max_length}", justify="right", no_wrap=True)
    table.add_column("where from", overflow="fold")
    for name, part in check.splits.items():
        lengths = part.tokens or part.characters
        shown = f"{lengths.median:,.0f}, {lengths.longest:,}" if lengths else "-"
        over = "-"
        if lengths and lengths.over_limit is not None:
            over = f"{lengths.over_limit / lengths.rows:.0%}"
        cells = [name, f"{part.rows:,}", f"{part.duplicates:,}", shown]
        table.add_row(*cells, *([over] if measured else []), Text(part.origin))
    return table


def _counts(check: TaskCheck) -> Iterable[str]:
    if check.left_out:
        yield f"{count(check.left_out, 'row')} left out, as their label stands for null."
    looked_at = [part.tokens for part in check.splits.values() if part.tokens]
    if any(lengths.rows == ROWS_TOKENISED for lengths in looked_at):
        yield f"Tokens are of at most {ROWS_TOKENISED:,} rows a split."


def _label_table(check: TaskCheck) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("right choice" if not check.words else "label word", overflow="fold")
    if check.words:
        table.add_column("in the data", overflow="fold")
    for name in SPLITS:
        table.add_column(name, justify="right", no_wrap=True)
    labels = list(dict.fromkeys(word for part in check.splits.values() for word in part.labels))
    if not check.words:
        labels.sort(key=lambda label: int(label.split()[-1]))
    for label in labels[:LABELS_SHOWN]:
        counts = [f"{check.splits[name].labels.get(label, 0):,}" for name in SPLITS]
        values = [Text(", ".join(check.words[label]))] if check.words else []
        table.add_row(Text(repr(label) if check.words else label), *values, *counts)
    if len(labels) <= LABELS_SHOWN:
        return table
    more = len(labels) - LABELS_SHOWN
    return Group(table, Text(f"and {more} more labels; --json has them all", style="dim"))


def _scores(check: TaskCheck) -> Text:
    text = Text(f"Guessing scores {show(check.chance)} on validation")
    if check.majority is not None:
        text.append(f", always saying the commonest label of train {show(check.majority)}")
    return text.append(".")


_ENDS = str.maketrans({" ": "\u2423", "\t": "\u21e5"})


def visible(text: str) -> str:
    """Text with its line ends marked, and with the spaces that stand before them.

    Args:
        text: Any text.

    Returns:
        The text with a return sign before each newline and an open box for each space at the end
        of a line.
    """
    lines = [
        line[: len(line.rstrip(" \t"))] + line[len(line.rstrip(" \t")) :].translate(_ENDS)
        for line in text.split("\n")
    ]
    return "\u21b5\n".join(lines)


def _shortened(text: str, most: int = 700) -> str:
    if len(text) <= most:
        return text
    left_out = len(text) - most
    half = most // 2
    return f"{text[:half]} [... {left_out:,} characters ...] {text[-half:]}"


def _sample(number: int, sample: Sample) -> Iterable[RenderableType]:
    yield Text(f"Example {number}, {sample.split}", style="bold")
    text = Text(visible(_shortened(sample.prompt)), overflow="fold")
    if sample.continuation:
        text.append("\u27e6", style="dim")
        text.append(visible(_shortened(sample.continuation)), style="bold green")
        text.append("\u27e7", style="dim")
    yield Padding(text, (0, 0, 0, 2), expand=False)
    for other in sample.others[:5]:
        wrong = Text.assemble("not \u27e6", visible(_shortened(other, 200)), "\u27e7", style="dim")
        yield Padding(wrong, (0, 0, 0, 4), expand=False)


def as_document(check: TaskCheck) -> dict[str, Any]:
    """The facts for programs.

    Args:
        check: What was found.

    Returns:
        A JSON document.
    """
    return asdict(check)
