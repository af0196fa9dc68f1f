"""The outcome of a sweep for people: tables, the verdict, and the commands that come next."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from orchestrator.cli.output.next_commands import next_commands
from orchestrator.cli.output.scores import (
    comparison_tables,
    extension_tables,
    reading_tables,
    task_tables,
)
from orchestrator.cli.output.tables import print_on
from orchestrator.cli.output.trials_table import finished_words, title_of, trial_tables
from orchestrator.records.event import Line
from orchestrator.records.extension_words import extension_words
from orchestrator.records.registry.in_use import words_of
from orchestrator.records.registry.verdicts import in_use_beside
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.index.trial_values import row_of
from orchestrator.registry.part import Whole
from orchestrator.system.formatting import show, show_interval

MOST_SHOWN = 50
"""Trials of one table: no terminal shows more at once."""


def render_outcome(lines: Iterable[Line], folder: Path, *, width: int = 100) -> RenderableType:
    """The end of a sweep, or its state so far, for people.

    Args:
        lines: The journal.
        folder: The sweep's folder.
        width: Columns to lay the tables out for.

    Returns:
        Tables of trials and tasks, the verdict, and the commands that come next.
    """
    view = SweepState.of(lines)
    return render_summary(view, Whole.of(view), folder, width=width)


def render_summary(
    view: SweepState, whole: Whole, folder: Path, *, width: int = 100
) -> RenderableType:
    """The same, of a sweep of which only the trials are known that are shown.

    Args:
        view: The sweep.
        whole: What is counted over all of its trials.
        folder: The sweep's folder.
        width: Columns to lay the tables out for.

    Returns:
        The same as `render_outcome`.
    """
    parts: list[RenderableType] = [*reading_tables(view, width), *_trials(view, whole, width)]
    parts += [Text(), *extension_tables(view, width), *task_tables(view, width)]
    parts += [*comparison_tables(view), _verdict(view)]
    words = words_of(in_use_beside(view, folder))
    parts += [Text(words[:1].upper() + words[1:], style="bold yellow")] if words else []
    parts += [Text(), _caveat(view, whole), Text()]
    parts.append(_next_steps(view, folder))
    return Group(*parts)


def summary_svg(view: SweepState, whole: Whole, folder: Path) -> str:
    """The picture of `render_summary` in 100 columns, without the commands, as an SVG document."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    parts = [*reading_tables(view, 100), *_trials(view, whole, 100), Text()]
    parts += task_tables(view, 100)
    parts += [*comparison_tables(view), _verdict(view), Text(), _caveat(view, whole)]
    print_on(console, Group(*parts))
    return console.export_svg(title=f"orchestrate runs show {folder.name}")


def _trials(view: SweepState, whole: Whole, width: int) -> list[RenderableType]:
    shown = _shown(view)
    progress = finished_words(whole.finished, whole.planned, ended=view.ended)
    decided = bool(view.front or view.champion)
    parts = trial_tables(
        [row_of(view, trial) for trial in shown],
        width,
        title_of(view.kind, view.name, progress),
        view.experiment.get("objectives", {}) if decided else None,
    )
    if len(shown) < whole.trials:
        more = f"{len(shown)} of {whole.trials:,}: the front, the finalists, the largest gains."
        parts.append(Text(f"{more} `orchestrate runs list {view.name} --limit 0` lists all."))
    return parts


def _shown(view: SweepState) -> list[TrialRecord]:
    """The trials of a large sweep that its verdict speaks of, and those with the largest gains."""
    if len(view.trials) <= MOST_SHOWN:
        return view.trials
    spoken_of = {view.champion, view.runner_up, *view.front[:MOST_SHOWN]}
    spoken_of |= {name for one in view.finalists for name in (one.trial, *one.repeats)}

    def merit(trial: TrialRecord) -> tuple[bool, float]:
        gain = trial.measures.get("gain")
        return trial.name in spoken_of, -math.inf if gain is None else gain

    kept = {trial.name for trial in sorted(view.trials, key=merit, reverse=True)[:MOST_SHOWN]}
    return [trial for trial in view.trials if trial.name in kept]


def _verdict(view: SweepState) -> Text:
    front = ", ".join(view.front[:MOST_SHOWN]) or "none"
    if len(view.front) > MOST_SHOWN:
        front += f" and {len(view.front) - MOST_SHOWN:,} more"
    if not view.ended:
        best = view.best
        words = "nothing finished yet"
        if best is not None:
            words = f"{best.name}, gain {show(best.measure('gain'), signed=True)}"
        return Text(f"Not ended. Best so far: {words}.")
    text = Text(f"Front: {front}\n")
    if view.extension is not None:
        best = view.best
        if best is not None and best.name in view.extension.sides:
            text.append(f"{extension_words(view.extension, best.name)}\n", style="bold")
    if view.champion is None:
        text.append(f"No champion: {view.reason.rstrip('.')}.", style="bold yellow")
    else:
        text.append(f"Champion {view.champion}: {view.reason.rstrip('.')}.", style="bold green")
    if view.runner_up is not None:
        between = show_interval(view.runner_up_interval)
        text.append(f"\nRunner-up {view.runner_up}: the champion's score minus its, {between}.")
    text.append(f"\n{view.test_words}")
    if view.model is not None:
        text.append(f"\nRegistered as {view.model}, version {view.version}.")
    return text


def _caveat(view: SweepState, whole: Whole) -> Text:
    seeds = set(whole.seeds)
    if view.finalists:
        how_many = "one seed, but for the finalists, whose means over fresh seeds stand above"
    elif len(seeds) == 1:
        how_many = f"one seed ({seeds.pop()}): the spread over seeds was not measured"
    else:
        how_many = f"{len(seeds)} seeds, one for each trial"
    which = "Trials show validation scores"
    if view.chooses:
        which += ", by which the trials were chosen, so the best of them is optimistic"
    text = f"{which}. It is {how_many}."
    if view.chooses and view.ended:
        text += " The interval of a trial is right for one that was named beforehand; "
        text += (
            f"the verdict's allows for the choice among {view.compared}."
            if view.compared is not None
            else "the verdict, of an earlier version, did not allow for the choice among them."
        )
    return Text(text, style="dim")


def _next_steps(view: SweepState, folder: Path) -> Text:
    text = Text(no_wrap=True, overflow="ignore")
    headings = {"browse": "To look at it", "use": "To use it"}
    for number, (purpose, commands) in enumerate(next_commands(view, folder).items()):
        text.append(("\n" if number else "") + headings[purpose] + "\n", style="bold")
        text.append("\n".join(f"  {command}" for command in commands) + "\n")
    text.rstrip()
    return text
