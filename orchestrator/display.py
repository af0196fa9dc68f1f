"""Tables for a terminal, read from a sweep's journal. A cell that was not measured prints "-"."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.formatting import count, show, show_duration, show_interval, show_setting
from orchestrator.journal import Line
from orchestrator.objectives import NATURAL_DIRECTIONS
from orchestrator.sweep_documents import log_path, next_commands
from orchestrator.sweep_view import (
    CONTROLS,
    SweepView,
    TrialView,
    mean,
    reading_comparisons,
    reading_scores,
)

_SHOWN_SETTINGS = {
    "method.adapter.kind": "kind",
    "method.adapter.r": "r",
    "method.adapter.alpha": "alpha",
    "method.adapter.temperature": "temp.",
    "training.learning_rate": "learn.\nrate",
}
_SHOWN_MEASURES = (
    "gain", "95 % interval", "accu-\nracy", "forget-\nting", "probe\ndrift", "sec-\nonds", "state",
)  # fmt: skip


def table(title: str, *columns: str, left: Iterable[str] = ()) -> Table:
    """An empty table in the house style: numbers to the right, the columns in `left` to the left.

    Args:
        title: What the table shows.
        *columns: Headings.
        left: The headings of columns that hold words.

    Returns:
        The table.
    """
    made = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    words = set(left)
    for name in columns:
        made.add_column(name, justify="left" if name in words else "right", overflow="fold")
    return made


def _natural_width(made: Table) -> int:
    return Console(width=10_000).measure(made).maximum


def _add(target: Table, cells: Iterable[str], style: str = "") -> None:
    # `Text`, because a plain string such as "[+0.1, +0.2]" would be read as markup.
    target.add_row(*(Text(cell) for cell in cells), style=style)


# ------------------------------------------------------------------------------- the outcome


def render_outcome(lines: Iterable[Line], folder: Path, *, width: int = 100) -> RenderableType:
    """The end of a sweep, or its state so far, for people.

    Args:
        lines: The journal.
        folder: The sweep's folder.
        width: Columns to lay the tables out for.

    Returns:
        Tables of trials and tasks, the verdict, and the commands that come next.
    """
    view = SweepView.of(lines)
    parts: list[RenderableType] = [*_reading_tables(view, width), *_trial_tables(view, width)]
    parts += [Text(), *_task_tables(view, width)]
    parts += [*_comparison_tables(view), _verdict(view), Text(), _caveat(view), Text()]
    parts.append(_next_steps(view, folder))
    return Group(*parts)


def outcome_svg(lines: Iterable[Line], folder: Path) -> str:
    """The picture of `render_outcome` in 100 columns, without the commands, as an SVG document."""
    view = SweepView.of(lines)
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    parts = [*_reading_tables(view, 100), *_trial_tables(view, 100), Text()]
    parts += _task_tables(view, 100)
    parts += [*_comparison_tables(view), _verdict(view), Text(), _caveat(view)]
    print_on(console, Group(*parts))
    return console.export_svg(title=f"orchestrate runs show {folder.name}")


def _trial_tables(
    view: SweepView, width: int, trials: Sequence[TrialView] | None = None
) -> list[RenderableType]:
    trials = view.trials if trials is None else trials
    settings = {trial.name: view.settings(trial) for trial in trials}
    others = sorted({path for t in trials for path in t.overrides} - set(_SHOWN_SETTINGS))
    shown = _SHOWN_SETTINGS | {path: path.rsplit(".", 1)[-1] for path in others}
    words = {"trial", "kind", "state"}
    rows = [
        (
            _marked(view, trial),
            [show_setting(path, settings[trial.name].get(path)) for path in shown],
            _measure_cells(trial),
            _style(view, trial),
        )
        for trial in trials
    ]
    title = f"{'Run' if view.kind == 'run' else 'Sweep'} {view.name}: {_progress_words(view)}"
    if len(trials) < len(view.trials):
        title += f", {len(trials)} chosen"
    whole = table(title, "trial", *shown.values(), *_SHOWN_MEASURES, left=words)
    first = table(title, "trial", *_SHOWN_MEASURES, left=words)
    second = table("Settings", "trial", *shown.values(), left=words)
    for name, left, right, style in rows:
        _add(whole, [name, *left, *right], style)
        _add(first, [name, *right], style)
        _add(second, [name, *left], style)
    tables: list[RenderableType] = [whole]
    if _natural_width(whole) > width:
        tables = [first, Text(), second]
    if view.front or view.champion:
        legend = "* champion, " if view.champion else ""
        legend += "+ on the front of " + ", ".join(view.experiment.get("objectives", {}))
        if any(trial.of is not None for trial in trials):
            legend += ", = the same with a fresh seed"
        tables.append(Text(legend, style="dim"))
    failed = [trial for trial in trials if trial.state == "FAILED"]
    tables += [Text(failure(trial), style="red") for trial in failed]
    return tables


def _progress_words(view: SweepView) -> str:
    done, total = len(view.finished), view.total
    many = count(total, "trial")
    if view.ended:
        return many if done == total else f"ended after {done} of {many}"
    return f"{done} of {many} finished so far"


def _marked(view: SweepView, trial: TrialView) -> str:
    if trial.name == view.champion:
        return f"{trial.name} *"
    if trial.of is not None:
        return f"{trial.name} = {trial.of}"
    return f"{trial.name} +" if trial.name in view.front else trial.name


def _style(view: SweepView, trial: TrialView) -> str:
    if trial.name == view.champion:
        return "bold green"
    return {"FAILED": "red", "STOPPED": "dim"}.get(trial.state, "")


def _measure_cells(trial: TrialView) -> list[str]:
    return [
        show(trial.measure("gain"), signed=True),
        show_interval(trial.gain_interval),
        show(trial.measure("accuracy")),
        show(trial.measure("forgetting"), signed=True),
        show(trial.measure("probe_drift"), signed=True),
        show(trial.measure("cost_s"), digits=0),
        trial.state.lower(),
    ]


def failure(trial: TrialView) -> str:
    """One sentence on a failed trial: why, and where its log is."""
    return f"{trial.name} failed: {trial.reason or 'no reason was recorded'}" + (
        f" (log: {trial.log})" if trial.log else ""
    )


def _reading_tables(view: SweepView, width: int) -> list[RenderableType]:
    """What the test data say, each reading by itself, the first one first."""
    tables: list[RenderableType] = []
    for reading in view.readings:
        if not reading.get("reading"):
            continue
        champion = reading["champion"]
        title = f"Test examples, reading {reading['reading']}: {champion} minus each control"
        made = table(title, "compared with", "its mean", "difference", "95 % interval",
                     left={"compared with"})  # fmt: skip
        for name, score, difference, interval in reading_comparisons(reading):
            _add(made, [name, show(score), show(difference, signed=True), show_interval(interval)])
        labels = {**CONTROLS, reading["runner_up"]: f"{reading['runner_up']}, the runner-up",
                  champion: f"{champion}, champion then"}  # fmt: skip
        rows = {
            labels.get(name, name): [show(score) for score in scores]
            for name, scores in reading_scores(reading).items()
        }
        rows["test examples"] = [str(reading["examples"].get(t, "-")) for t in view.tasks]
        tables += [made, Text(), *_task_tables(view, width, rows, "Test scores by task")]
    return tables


def _task_tables(
    view: SweepView,
    width: int,
    rows: Mapping[str, list[str]] | None = None,
    title: str = "Scores by task",
) -> list[RenderableType]:
    """Scores by task, in as many tables as the width needs."""
    rows = task_rows(view) if rows is None else rows
    if not view.tasks or not rows:
        return []
    tables: list[RenderableType] = []
    start = 0
    while start < len(view.tasks):
        stop = start + 1
        made = _task_table(view.tasks, rows, start, stop, title)
        while stop < len(view.tasks):
            wider = _task_table(view.tasks, rows, start, stop + 1, title)
            if _natural_width(wider) > width:
                break
            made, stop = wider, stop + 1
        tables += [made, Text()]
        start = stop
    return tables


def _task_table(
    tasks: list[str], rows: Mapping[str, list[str]], start: int, stop: int, title: str
) -> Table:
    made = table(title, "", *tasks[start:stop], left={""})
    for name, cells in rows.items():
        _add(made, [name, *cells[start:stop]])
    return made


def task_rows(view: SweepView) -> dict[str, list[str]]:
    """The rows of the table of tasks: controls first, then what the best trial reached.

    Args:
        view: The sweep.

    Returns:
        A label and one cell per task for each row.
    """
    rows: dict[str, list[str]] = {}
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        scores = view.control_scores(control)
        # Tasks without a head of their own have no such control.
        if control != "head_only" or not all(math.isnan(score) for score in scores):
            rows[label] = [show(score) for score in scores]
    best = view.best
    matrix = view.matrix(best) if best is not None else None
    if best is not None and matrix is not None and matrix.tasks_learnt:
        rows |= _learnt_rows(best.name, matrix)
    counts = [view.controls.get(task, {}).get("validation_examples") for task in view.tasks]
    rows["validation examples"] = ["-" if count is None else str(count) for count in counts]
    return rows


def _learnt_rows(name: str, matrix: AccuracyMatrix) -> dict[str, list[str]]:
    last = matrix.tasks_learnt
    after = [show(matrix.rows[i + 1][i]) if i < last else "-" for i in range(len(matrix.tasks))]
    rows = {
        f"{name} right after the task": after,
        f"{name} after {matrix.tasks[last - 1]}": [show(score) for score in matrix.rows[last]],
    }
    if last < 2:
        return rows
    lost, when = [], []
    for task in range(len(matrix.tasks)):
        earlier = {i: matrix.rows[i][task] for i in range(1, last)}
        # The task learnt last has nothing to forget yet, whatever it scored before.
        if task >= last - 1 or any(math.isnan(score) for score in earlier.values()):
            lost.append("-")
            when.append("-")
            continue
        best = max(earlier, key=lambda i: earlier[i])
        lost.append(show(earlier[best] - matrix.rows[last][task], signed=True))
        when.append(matrix.tasks[best - 1])
    rows["forgotten since its best"] = lost
    rows["  its best was after"] = when
    return rows


def _comparison_tables(view: SweepView) -> list[RenderableType]:
    """The best trial against each control, and what fresh seeds gave; empty for older journals."""
    tables: list[RenderableType] = []
    best = view.best
    if best is not None and best.intervals:
        made = table(
            f"{best.name} minus each control, mean over tasks",
            "control", "control's", "difference", "95 % interval", left={"control"},
        )  # fmt: skip
        for control, label in CONTROLS.items():
            score = mean(view.control_scores(control))
            if math.isnan(score) and best.interval(control) is None:
                continue
            difference = best.measure("accuracy") - score
            _add(made, [label, show(score), show(difference, signed=True),
                        show_interval(best.interval(control))])  # fmt: skip
        tables += [made, Text()]
    if view.finalists:
        names = [n for n in NATURAL_DIRECTIONS if any(n in f["mean"] for f in view.finalists)]
        shown = [
            name for name in ("gain", "accuracy", "forgetting", "probe_drift") if name in names
        ]
        made = table(
            "Finalists with fresh seeds: mean and standard deviation",
            "trial", "seeds", *(name.replace("_", " ") for name in shown), left={"trial"},
        )  # fmt: skip
        for finalist in view.finalists:
            spread = finalist.get("spread") or {}
            cells = [
                f"{show(finalist['mean'].get(name), signed=name != 'accuracy')} "
                f"+- {show(spread.get(name))}"
                for name in shown
            ]
            _add(made, [finalist["trial"], str(1 + len(finalist["repeats"])), *cells])
        tables += [made, Text()]
    return tables


def _verdict(view: SweepView) -> Text:
    front = ", ".join(view.front) or "none"
    if not view.ended:
        best = view.best
        words = "nothing finished yet"
        if best is not None:
            words = f"{best.name}, gain {show(best.measure('gain'), signed=True)}"
        return Text(f"Not ended. Best so far: {words}.")
    text = Text(f"Front: {front}\n")
    if view.champion is None:
        text.append(f"No champion: {view.reason}.", style="bold yellow")
    else:
        text.append(f"Champion {view.champion}: {view.reason}.", style="bold green")
    if view.runner_up is not None:
        between = show_interval(view.runner_up_interval)
        text.append(f"\nRunner-up {view.runner_up}: the champion's score minus its, {between}.")
    text.append(f"\n{view.test_words}")
    if view.model is not None:
        text.append(f"\nRegistered as {view.model}, version {view.version}.")
    return text


def _caveat(view: SweepView) -> Text:
    seeds = {view.settings(trial).get("training.seed") for trial in view.searched} - {None}
    if view.finalists:
        how_many = "one seed, but for the finalists, whose means over fresh seeds stand above"
    elif len(seeds) == 1:
        how_many = f"one seed ({seeds.pop()}): how far another would land was not measured"
    else:
        how_many = f"{len(seeds)} seeds, one for each trial"
    which = "Trials show validation scores"
    if view.kind != "run":
        which += ", by which the trials were chosen, so the best of them is optimistic"
    told = f"{which}. It is {how_many}."
    if view.kind != "run" and view.ended:
        told += " The interval of a trial is right for one that was named beforehand; "
        told += (
            f"the verdict's allows for the choice among {view.compared}."
            if view.compared is not None
            else "the verdict, of an earlier version, did not allow for the choice among them."
        )
    return Text(told, style="dim")


def print_on(console: Console, shown: RenderableType) -> None:
    """Print what a `render_...` function made; long commands and paths are never cut."""
    console.print(shown, crop=False)


def _next_steps(view: SweepView, folder: Path) -> Text:
    text = Text(no_wrap=True, overflow="ignore")
    headings = {"browse": "To look at it", "use": "To use it"}
    for number, (purpose, commands) in enumerate(next_commands(view, folder).items()):
        text.append(("\n" if number else "") + headings[purpose] + "\n", style="bold")
        text.append("\n".join(f"  {command}" for command in commands) + "\n")
    text.rstrip()
    return text


# ---------------------------------------------------------------------------- lists and trials


def render_trial(view: SweepView, trial: TrialView, folder: Path) -> RenderableType:
    """One trial for people: settings, measures, matrix, reports, paths.

    Args:
        view: The sweep.
        trial: One of its trials.
        folder: The sweep's folder.

    Returns:
        Tables and paths.
    """
    head = Text(f"{view.name} / {trial.name}: {trial.state.lower()}", style="bold")
    if trial.reason:
        head.append(f"\n{trial.reason}", style="red" if trial.state == "FAILED" else "")
    settings = table("Settings", "setting", "value", left={"setting"})
    for path, value in view.settings(trial).items():
        _add(settings, [path, show_setting(path, value, exact=True)])
    numbers = table("Measures", "measure", "value", "better", left={"measure", "better"})
    for name, direction in NATURAL_DIRECTIONS.items():
        better = "more" if direction == "max" else "less"
        _add(numbers, [name, show(trial.measure(name)), better])
    _add(numbers, ["gain, 95 % interval", show_interval(trial.gain_interval), ""])
    parts: list[RenderableType] = [head, Text(), settings, Text(), numbers, Text()]
    matrix = view.matrix(trial)
    if matrix is not None:
        parts += [_matrix_table(matrix), Text()]
    parts += [_report_table(trial), Text()]
    paths = Text(f"log      {log_path(trial, folder)}", no_wrap=True, overflow="ignore")
    if trial.adapter:
        paths.append(f"\nadapter  {folder / trial.adapter}")
    parts.append(paths)
    return Group(*parts)


def _matrix_table(matrix: AccuracyMatrix) -> Table:
    made = table("Scores on each task", "after", *matrix.tasks, left={"after"})
    names = ["(untouched base)", *matrix.tasks]
    for name, row in zip(names, matrix.rows, strict=False):
        _add(made, [name, *(show(score) for score in row)])
    return made


def _report_table(trial: TrialView) -> Table:
    # Only some retentions multiply a penalty by a number, which may have been found by itself.
    held = ["strength"] if any(r.get("strength") is not None for r in trial.reports) else []
    made = table(
        "Reports", "task", "step", "share", "score", "loss", "tokens", "seconds", *held, "probes",
        left={"task", "probes"},
    )  # fmt: skip
    for report in trial.reports:
        probes = " ".join(
            f"{name} {show(next(iter(reading.values()), None))}"
            for name, reading in (report.get("probes") or {}).items()
        )
        _add(
            made,
            [
                str(report.get("task") or "(untouched base)"),
                f"{report.get('step', '-')}/{report.get('steps', '-')}",
                show(report.get("fraction"), digits=2),
                show(report.get("score")),
                show(report.get("loss")),
                str(report.get("tokens", "-")),
                show(report.get("seconds"), digits=1),
                *(_strength(report.get(name)) for name in held),
                probes or "-",
            ],
        )
    return made


def _strength(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def render_sweeps(rows: Sequence[Mapping[str, Any]], *, now: float) -> RenderableType:
    """A list of sweeps for people.

    Args:
        rows: What `sweep_row` gives, oldest first.
        now: Seconds since the epoch.

    Returns:
        The table.
    """
    made = table(
        "Sweeps", "sweep", "state", "opened", "changed", "trials", "failed", "gain", "champion",
        left={"sweep", "state", "opened", "champion"},
    )  # fmt: skip
    for row in rows:
        opened = row.get("opened")
        changed = row.get("changed")
        _add(
            made,
            [
                row["sweep"],
                row["state"],
                "-" if opened is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(opened)),
                "-" if changed is None else f"{show_duration(now - changed)} ago",
                f"{row['trials_finished']}/{row['trials_planned']}",
                str(row["trials_failed"]),
                show(row.get("best_gain"), signed=True),
                row.get("champion") or "-",
            ],
        )
    return made


def render_trials(
    view: SweepView, width: int, trials: Sequence[TrialView] | None = None
) -> RenderableType:
    """The trials of one sweep for people, without the rest of the outcome.

    Args:
        view: The sweep.
        width: Columns to lay the tables out for.
        trials: Which of them, in which order; by default all.

    Returns:
        Tables.
    """
    return Group(*_trial_tables(view, width, view.trials if trials is None else trials))


def render_diff(document: Mapping[str, Any]) -> RenderableType:
    """What `orchestrator.run_diff` found, for people.

    Args:
        document: From `diff_trials` or `diff_sweeps`.

    Returns:
        Tables of settings, measures, scores and provenance; what is the same is said to be.
    """
    left, right = document["left"], document["right"]
    parts: list[RenderableType] = []
    for name in ("settings", "provenance"):
        if not document[name]:
            parts += [Text(f"{name.capitalize()}: the same."), Text()]
            continue
        made = table(f"{name.capitalize()} that differ", name, left, right,
                     left={name, left, right})  # fmt: skip
        for path, pair in document[name].items():
            cells = [show_setting(path, pair[side], exact=True) for side in ("left", "right")]
            _add(made, [path, *cells])
        parts += [made, Text()]
    numbers = table("Measures", "measure", left, right, "difference", left={"measure"})
    for name, pair in document["measures"].items():
        digits = 0 if name.startswith("cost") else 3
        _add(numbers, [name, *_pair_cells(pair, digits)])
    scores = table("Final scores", "task", left, right, "difference", "95 % interval",
                   left={"task"})  # fmt: skip
    for task, pair in document["scores"].items():
        _add(scores, [task, *_pair_cells(pair, 3), show_interval(pair["interval"])])
    if document["scores"]:
        ends = [[pair[side] for pair in document["scores"].values()] for side in ("left", "right")]
        whole = {"left": mean(ends[0]), "right": mean(ends[1])}
        whole["difference"] = whole["right"] - whole["left"]
        _add(scores, ["mean", *_pair_cells(whole, 3), show_interval(document["interval"])])
    parts += [numbers, Text(), scores, Text()]
    parts.append(Text(f"Differences are {right} minus {left}; intervals are paired over the same "
                      "examples, \"-\" where the examples differ.", style="dim"))  # fmt: skip
    return Group(*parts)


def _pair_cells(pair: Mapping[str, float], digits: int) -> list[str]:
    return [
        show(pair["left"], digits=digits),
        show(pair["right"], digits=digits),
        show(pair["difference"], signed=True, digits=digits),
    ]
