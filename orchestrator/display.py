"""What a person sees: the live view of a running sweep, and tables read from its journal.

Everything shown is a function of journal lines; only the progress between two lines comes from
elsewhere, and is never kept. A cell that was not measured prints "-".
"""

from __future__ import annotations

import io
import math
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.experiment import Experiment, ExperimentError, grid_points
from orchestrator.journal import Line
from orchestrator.model_registry import redacted
from orchestrator.objectives import NATURAL_DIRECTIONS

BASE = "base"
"""Name of the control trial: the untouched base model."""

HEARTBEAT_SECONDS = 10.0
"""A sweep without a terminal is never silent for longer than this."""

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


@dataclass
class TrialView:
    """What the journal says of one trial."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    state: str = "PROPOSED"
    """PROPOSED, RUNNING, COMPLETE, FAILED or STOPPED."""
    reason: str = ""
    reports: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[str, float | None] = field(default_factory=dict)
    gain_interval: list[float] | None = None
    adapter: str | None = None
    log: str | None = None
    started: float | None = None
    ended: float | None = None

    def measure(self, name: str) -> float:
        """A measure, NaN when it was not measured."""
        value = self.measures.get(name)
        return NOT_MEASURED if value is None else float(value)

    @property
    def base_row(self) -> list[float] | None:
        """The scores before anything was learnt, None unless this trial measured them."""
        rows = [r["row"] for r in self.reports if r["task_index"] < 0 and r.get("row")]
        return [_number(score) for score in rows[-1]] if rows else None

    @property
    def learnt_rows(self) -> dict[int, list[float]]:
        """Scores on every task after each task that was learnt, by its index from 0."""
        return {
            int(report["task_index"]): [_number(score) for score in report["row"]]
            for report in self.reports
            if report["task_index"] >= 0 and report.get("row")
        }


@dataclass
class SweepView:
    """What the journal says of a sweep; lines are taken one by one."""

    name: str = ""
    kind: str = "sweep"
    experiment: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    opened: float | None = None
    changed: float | None = None
    ended: bool = False
    front: list[str] = field(default_factory=list)
    champion: str | None = None
    reason: str = ""
    model: str | None = None
    """Name and version in the model registry, once the champion is registered."""
    version: str | None = None
    everything: dict[str, TrialView] = field(default_factory=dict)
    """Every trial by name, the untouched base included."""

    @classmethod
    def of(cls, lines: Iterable[Line]) -> SweepView:
        """The view of a whole journal."""
        view = cls()
        for line in lines:
            view.take(line)
        return view

    def take(self, line: Line) -> None:
        """Take one journal line."""
        self.changed = line.get("time")
        match line["event"]:
            case "sweep_opened":
                self.name, self.kind = line["sweep"], line.get("kind", "sweep")
                self.experiment, self.controls = line["experiment"], line.get("controls", {})
                self.origin, self.provenance = line.get("origin", ""), line.get("provenance", {})
                self.opened = line.get("time")
            case "trial_proposed":
                self.trial(line["trial"]).overrides = line.get("overrides", {})
            case "trial_started":
                trial = self.trial(line["trial"])
                trial.state, trial.started = "RUNNING", line.get("time")
            case "stage_report":
                self.trial(line["trial"]).reports.append(line["report"])
            case "trial_ended":
                self._take_end(line)
            case "sweep_ended":
                self.ended, self.front = True, line["front"]
                self.champion, self.reason = line["champion"], line["reason"]
            case "champion_registered":
                self.model, self.version = line["model"], str(line["version"])
            case _:  # a newer version's event: what is known is still shown
                pass

    def _take_end(self, line: Line) -> None:
        trial = self.trial(line["trial"])
        trial.state, trial.reason = line["state"], line.get("reason") or ""
        trial.measures, trial.gain_interval = line.get("measures") or {}, line.get("gain_interval")
        trial.adapter, trial.log = line.get("adapter"), line.get("log")
        trial.ended = line.get("time")

    def trial(self, name: str) -> TrialView:
        """The trial of that name, made when it is new."""
        return self.everything.setdefault(name, TrialView(name))

    @property
    def trials(self) -> list[TrialView]:
        """The trials in the order of their proposal, without the untouched base."""
        return [trial for name, trial in self.everything.items() if name != BASE]

    @property
    def finished(self) -> list[TrialView]:
        """The trials that ended, however they ended."""
        return [trial for trial in self.trials if trial.state not in {"PROPOSED", "RUNNING"}]

    @property
    def total(self) -> int:
        """How many trials the sweep is to hold."""
        search = self.experiment.get("search")
        if self.kind == "run" or not search:
            return max(1, len(self.trials))
        planned = int(search["trials"])
        if search.get("searcher") == "grid":
            parsed = _experiment(self.experiment)
            if parsed is not None and parsed.search is not None:
                planned = len(grid_points(parsed.search.space))
        return max(planned, len(self.trials))

    @property
    def tasks(self) -> list[str]:
        """The task sequence."""
        return list(self.experiment.get("tasks", []))

    @property
    def best(self) -> TrialView | None:
        """The champion, or else the finished trial with the largest gain."""
        if self.champion is not None:
            return self.trial(self.champion)
        measured = [t for t in self.finished if not math.isnan(t.measure("gain"))]
        return max(measured, key=lambda t: t.measure("gain"), default=None)

    def settings(self, trial: TrialView) -> dict[str, Any]:
        """The trial's whole method and training, its overrides applied."""
        if trial.name == BASE:
            return {}
        parsed = _experiment(self.experiment)
        if parsed is None:
            return dict(trial.overrides)
        try:
            document = parsed.with_overrides(trial.overrides).model_dump(mode="json")
        except ExperimentError:  # written by a version with other fields
            return dict(trial.overrides)
        parts = ("method", "training", "resources")
        return _flat({part: document[part] for part in parts})

    def matrix(self, trial: TrialView) -> AccuracyMatrix | None:
        """The accuracy matrix as far as it was measured, None when no row was."""
        base = self.everything.get(BASE)
        first = trial.base_row or (base.base_row if base else None)
        learnt = trial.learnt_rows
        if not learnt and first is None:
            return None
        empty = [NOT_MEASURED] * len(self.tasks)
        count = max(learnt, default=-1) + 1
        rows = [first or empty, *(learnt.get(index, empty) for index in range(count))]
        return AccuracyMatrix(tuple(self.tasks), tuple(tuple(row) for row in rows))


def _experiment(document: Mapping[str, Any]) -> Experiment | None:
    try:
        return Experiment.model_validate(document)
    except ValidationError:  # written by a version with other fields
        return None


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _number(value: float | None) -> float:
    return NOT_MEASURED if value is None else float(value)


# ---------------------------------------------------------------------------------- numbers


def show(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """A number with three decimals, "-" when it was not measured."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def show_interval(interval: Sequence[float | None] | None) -> str:
    """An interval in brackets, "-" when it was not measured."""
    if not interval or any(bound is None for bound in interval):
        return "-"
    return f"[{show(interval[0], signed=True)}, {show(interval[1], signed=True)}]"


def show_duration(seconds: float | None) -> str:
    """Seconds as people say them: 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None or math.isnan(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_setting(path: str, value: Any) -> str:
    """A setting as the tables print it."""
    if value is None:
        return "-"
    if path.endswith("learning_rate"):
        return f"{float(value):.1e}"
    if isinstance(value, float):
        return show(value)
    return str(value)


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
    parts: list[RenderableType] = [*_trial_tables(view, width), Text()]
    parts += _task_tables(view, width)
    parts += [_verdict(view), Text(), _caveat(view), Text(), _next_steps(view, folder)]
    return Group(*parts)


def outcome_svg(lines: Iterable[Line], folder: Path) -> str:
    """The picture of `render_outcome` in 100 columns, without the commands, as an SVG document."""
    view = SweepView.of(lines)
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    parts = [*_trial_tables(view, 100), Text(), *_task_tables(view, 100), _verdict(view), Text()]
    print_on(console, Group(*parts, _caveat(view)))
    return console.export_svg(title=f"orchestrate runs show {folder.name}")


def _trial_tables(view: SweepView, width: int) -> list[RenderableType]:
    settings = {trial.name: view.settings(trial) for trial in view.trials}
    others = sorted({path for t in view.trials for path in t.overrides} - set(_SHOWN_SETTINGS))
    shown = _SHOWN_SETTINGS | {path: path.rsplit(".", 1)[-1] for path in others}
    words = {"trial", "kind", "state"}
    rows = [
        (
            _marked(view, trial),
            [show_setting(path, settings[trial.name].get(path)) for path in shown],
            _measure_cells(trial),
            _style(view, trial),
        )
        for trial in view.trials
    ]
    title = f"{'Run' if view.kind == 'run' else 'Sweep'} {view.name}: {_progress_words(view)}"
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
        tables.append(Text(legend, style="dim"))
    failed = [trial for trial in view.trials if trial.state == "FAILED"]
    tables += [Text(_failure(trial), style="red") for trial in failed]
    return tables


def _progress_words(view: SweepView) -> str:
    done, total = len(view.finished), view.total
    many = _count(total, "trial")
    if view.ended:
        return many if done == total else f"ended after {done} of {many}"
    return f"{done} of {many} finished so far"


def _marked(view: SweepView, trial: TrialView) -> str:
    if trial.name == view.champion:
        return f"{trial.name} *"
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


def _failure(trial: TrialView) -> str:
    return f"{trial.name} failed: {trial.reason or 'no reason was recorded'}" + (
        f" (log: {trial.log})" if trial.log else ""
    )


def _task_tables(view: SweepView, width: int) -> list[RenderableType]:
    """Scores by task, in as many tables as the width needs."""
    rows = task_rows(view)
    if not view.tasks or not rows:
        return []
    tables: list[RenderableType] = []
    start = 0
    while start < len(view.tasks):
        stop = start + 1
        made = _task_table(view.tasks, rows, start, stop)
        while stop < len(view.tasks):
            wider = _task_table(view.tasks, rows, start, stop + 1)
            if _natural_width(wider) > width:
                break
            made, stop = wider, stop + 1
        tables += [made, Text()]
        start = stop
    return tables


def _task_table(tasks: list[str], rows: Mapping[str, list[str]], start: int, stop: int) -> Table:
    made = table("Scores by task", "", *tasks[start:stop], left={""})
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
    base = view.everything.get(BASE)
    rows["zero-shot (untouched base)"] = _scores((base.base_row if base else None) or [], view)
    for label, key in (("majority class", "majority"), ("chance", "chance")):
        rows[label] = [show(view.controls.get(task, {}).get(key)) for task in view.tasks]
    best = view.best
    matrix = view.matrix(best) if best is not None else None
    if best is not None and matrix is not None and matrix.tasks_learnt:
        rows |= _learnt_rows(best.name, matrix)
    counts = [view.controls.get(task, {}).get("validation_examples") for task in view.tasks]
    rows["validation examples"] = ["-" if count is None else str(count) for count in counts]
    return rows


def _scores(row: Sequence[float], view: SweepView) -> list[str]:
    return [show(score) for score in row] or ["-"] * len(view.tasks)


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
    if view.model is not None:
        text.append(f"\nRegistered as {view.model}, version {view.version}.")
    return text


def _caveat(view: SweepView) -> Text:
    seeds = {view.settings(trial).get("training.seed") for trial in view.trials} - {None}
    if len(seeds) == 1:
        how_many = f"one seed ({seeds.pop()}): how far another would land was not measured"
    else:
        how_many = f"{len(seeds)} seeds, one for each trial"
    which = "These are validation scores"
    if view.kind != "run":
        which += ", by which the trials were chosen, so the best of them is optimistic"
    return Text(f"{which}. It is {how_many}.", style="dim")


def program() -> str:
    """How to call this program from here: its name, or its path when the name is not found."""
    beside = Path(sys.executable).parent / "orchestrate"
    found = shutil.which("orchestrate")
    return "orchestrate" if found and Path(found) == beside else _short_path(beside)


def next_commands(view: SweepView, folder: Path) -> dict[str, list[str]]:
    """The commands that come next, by what they are for.

    Args:
        view: The sweep.
        folder: The sweep's folder.

    Returns:
        Commands under "browse" and, when there is something to use, "use".
    """
    storage = _short_path(folder.parent)
    where = [] if storage == "runs" else ["--storage", storage]
    best = view.best
    mlflow = _short_path(Path(sys.executable).parent / "mlflow")
    browse = [[program(), "runs", "show", folder.name, *where]]
    if best is not None:
        browse.append([program(), "runs", "show", folder.name, best.name, *where])
    browse.append(
        [mlflow, "ui", "--backend-store-uri", tracking_uri(view, folder), "--host", "127.0.0.1"]
    )
    use: list[list[str]] = []
    reference = None
    if view.model is not None:
        reference = f"{view.model}@champion"
        use.append([program(), "predict", reference, "--task", view.tasks[0], *where, "A TEXT"])
    elif best is not None and best.adapter:
        reference = f"{folder.name}/{best.name}"
    if reference is not None:
        to = f"exported/{view.name}"
        use.append([program(), "export", reference, "--as", "lora", "--to", to, *where])
    commands = {"browse": [shlex.join(words) for words in browse]}
    if use:
        commands["use"] = [shlex.join(words) for words in use]
    return commands


def tracking_uri(view: SweepView, folder: Path) -> str:
    """Where MLflow recorded the sweep, without credentials."""
    uri = (view.experiment.get("tracking") or {}).get("uri")
    return redacted(uri) if uri else default_tracking_uri(folder.parent)


def default_tracking_uri(storage: Path) -> str:
    """Where MLflow records when an experiment does not say."""
    return f"sqlite:///{storage.resolve() / 'mlflow.db'}"


def _short_path(path: Path) -> str:
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` would follow venv's links)
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


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


# ------------------------------------------------------------------------------ for programs


def trial_document(view: SweepView, trial: TrialView, folder: Path) -> dict[str, Any]:
    """One trial for programs: settings, measures, matrix, reports, paths.

    Args:
        view: The sweep.
        trial: One of its trials.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    matrix = view.matrix(trial)
    adapter = folder / trial.adapter if trial.adapter else None
    return {
        "trial": trial.name,
        "state": trial.state,
        "reason": trial.reason,
        "on_front": trial.name in view.front,
        "champion": trial.name == view.champion,
        "settings": view.settings(trial),
        "overrides": trial.overrides,
        "measures": {name: trial.measures.get(name) for name in NATURAL_DIRECTIONS},
        "gain_interval": trial.gain_interval,
        "matrix": None if matrix is None else {"tasks": matrix.tasks, "rows": matrix.rows},
        "reports": [
            {key: value for key, value in report.items() if key != "per_example"}
            for report in trial.reports
        ],
        "adapter": str(adapter) if adapter else None,
        "log": str(log_path(trial, folder)),
    }


def trial_row(view: SweepView, trial: TrialView, folder: Path) -> dict[str, Any]:
    """One trial of a list, for programs: `trial_document` without its reports."""
    document = trial_document(view, trial, folder)
    del document["reports"]
    return document


def log_path(trial: TrialView, folder: Path) -> Path:
    """Where the trial's log is, or would be."""
    return folder / (trial.log or f"trials/{trial.name}/log.txt")


def outcome_document(lines: Iterable[Line], folder: Path) -> dict[str, Any]:
    """The same as `render_outcome`, for programs.

    Args:
        lines: The journal.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    view = SweepView.of(lines)
    base = view.everything.get(BASE)
    zero_shot = base.base_row if base else None
    return {
        "sweep": view.name,
        "kind": view.kind,
        "folder": str(folder),
        "ended": view.ended,
        "trials_planned": view.total,
        "tasks": view.tasks,
        "zero_shot": dict(zip(view.tasks, zero_shot, strict=True)) if zero_shot else None,
        "controls": view.controls,
        "trials": [trial_row(view, trial, folder) for trial in view.trials],
        "front": view.front,
        "champion": view.champion,
        "reason": view.reason,
        "registered": {"model": view.model, "version": view.version} if view.model else None,
        "scores_are": "validation scores by which the trials were chosen",
        "tracking_uri": tracking_uri(view, folder),
        "commands": next_commands(view, folder),
    }


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
        _add(settings, [path, show_setting(path, value)])
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
    made = table(
        "Reports", "task", "step", "share", "score", "loss", "tokens", "seconds", "probes",
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
                probes or "-",
            ],
        )
    return made


def sweep_row(view: SweepView, folder: Path) -> dict[str, Any]:
    """One sweep of a list, for programs and for `render_sweeps`.

    Args:
        view: The sweep.
        folder: Its folder.

    Returns:
        A JSON-like document.
    """
    best = view.best
    return {
        "sweep": folder.name,
        "experiment": view.name,
        "kind": view.kind,
        "state": "ended" if view.ended else "unfinished",
        "opened": view.opened,
        "changed": view.changed,
        "trials_finished": len(view.finished),
        "trials_failed": sum(trial.state == "FAILED" for trial in view.trials),
        "trials_planned": view.total,
        "tasks": view.tasks,
        "best": best.name if best else None,
        "best_gain": best.measure("gain") if best else None,
        "champion": view.champion,
        "folder": str(folder),
    }


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


def render_trials(view: SweepView, width: int) -> RenderableType:
    """The trials of one sweep for people, without the rest of the outcome."""
    return Group(*_trial_tables(view, width))


# --------------------------------------------------------------------------------- while it runs


class LiveDisplay:
    """Shows a running sweep: a panel on a terminal, one line per event elsewhere.

    Every method may be called from any thread.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.time) -> None:
        """Prepare the display; it begins with `with`.

        Args:
            console: Where to show it; its kind decides between panel and lines.
            clock: Seconds since the epoch, as the journal writes them.
        """
        self.view = SweepView()
        self._console = console
        self._clock = clock
        self._lock = threading.RLock()
        self._progress: dict[str, dict[str, Any]] = {}
        self._doing = "starting"
        self._began = clock()
        self._spoke = self._began
        self._caught_up = False
        self._stopped = threading.Event()
        self._heart: threading.Thread | None = None
        self._live: Live | None = None

    def __enter__(self) -> LiveDisplay:
        self._began = self._spoke = self._clock()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self.panel,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        else:
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._live is not None:
            self._live.stop()
        if self._heart is not None:
            self._heart.join()

    def note(self, text: str) -> None:
        """Say what the driver is doing."""
        with self._lock:
            self._doing = text
            if self._live is None:
                self._say(text)

    def line(self, line: Line) -> None:
        """Take a journal line; lines older than this display were shown by another one."""
        with self._lock:
            old = line.get("time", self._began) < self._began
            if not old:
                self._catch_up()
            self.view.take(line)
            if line["event"] == "trial_ended":
                self._progress.pop(line["trial"], None)
            told = describe(line, self.view)
            important = line["event"] in {"trial_ended", "sweep_ended", "champion_registered"}
            if told and not old and (self._live is None or important):
                self._say(told)

    def progress(self, trial: str, progress: dict[str, Any]) -> None:
        """Take the progress of a running trial; nothing of it is kept."""
        with self._lock:
            self._catch_up()
            self._progress[trial] = progress

    def _catch_up(self) -> None:
        if not self._caught_up and self.view.opened is not None:
            done, total = len(self.view.finished), self.view.total
            self._say(f"continuing {self.view.name}: {done} of {total} trials had finished")
        self._caught_up = True

    def _say(self, text: str) -> None:
        stamp = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        self._spoke = self._clock()
        self._console.print(Text(f"{stamp}  {text}"), soft_wrap=True)

    def _beat(self) -> None:
        while not self._stopped.wait(1.0):
            self.beat()

    def beat(self) -> None:
        """Speak when nothing was said for a while."""
        with self._lock:
            if self._clock() - self._spoke >= HEARTBEAT_SECONDS:
                self._say(self.status())

    def status(self) -> str:
        """The state of the sweep in one line."""
        with self._lock:
            view = self.view
            running = [
                f"{name} {_phase_words(progress)} {_share(progress):.0%}"
                for name, progress in sorted(self._progress.items())
            ]
            words = [f"{len(view.finished)} of {view.total} trials"] if view.name else [self._doing]
            words += running or ([self._doing] if view.name else [])
            words.append(f"elapsed {show_duration(self._clock() - self._began)}")
            left = self.time_left()
            if left is not None:
                words.append(f"about {show_duration(left)} left")
            return "; ".join(words)

    def time_left(self) -> float | None:
        """Seconds until the last trial ends, None while there is nothing to judge by.

        Finished trials (or, before the first has finished, the shares done of the running ones)
        give the seconds of a trial; what is left is shared by as many as run now.

        Returns:
            Seconds.
        """
        with self._lock:
            now = self._clock()
            durations = [
                trial.ended - trial.started
                for trial in self.view.finished
                if trial.started is not None
                and trial.ended is not None
                and trial.state == "COMPLETE"
            ]
            shares = {
                name: _share(progress)
                for name, progress in self._progress.items()
                if name != BASE and self.view.trial(name).started is not None
            }
            if not durations:
                durations = [
                    (now - float(self.view.trial(name).started or now)) / share
                    for name, share in shares.items()
                    if share >= 0.05
                ]
            if not durations or self.view.ended:
                return None
            todo = max(0.0, self.view.total - len(self.view.finished) - sum(shares.values()))
            return todo * sum(durations) / len(durations) / max(1, len(shares))

    def panel(self) -> RenderableType:
        """The panel for a terminal."""
        with self._lock:
            view = self.view
            done = len(view.finished)
            failed = sum(trial.state == "FAILED" for trial in view.trials)
            head = Text(self._doing if not view.name else f"{done} of {view.total} trials")
            if failed:
                head.append(f", {failed} failed", style="red")
            head.append(f"   elapsed {show_duration(self._clock() - self._began)}")
            left = self.time_left()
            head.append(f"   left {'-' if left is None else 'about ' + show_duration(left)}")
            best = view.best
            words = "-"
            if best is not None:
                words = f"{best.name}, gain {show(best.measure('gain'), signed=True)}"
                words += f" {show_interval(best.gain_interval)}"
            parts: list[RenderableType] = [head]
            if view.total and view.name:
                whole = Table.grid()
                whole.add_row(ProgressBar(total=view.total, completed=done, width=40))
                parts.append(whole)
            parts += [self._running_table(), Text(f"best so far  {words}")]
            if view.name:
                parts.append(Text(self._doing, style="dim"))
            return Panel(Group(*parts), title=Text(view.name or "starting"), title_align="left")

    def _running_table(self) -> Table:
        rows = Table.grid(padding=(0, 2, 0, 0))
        for heading in ("trial", "", "task", "step", "loss", "", ""):
            rows.add_column(heading, no_wrap=True)
        for name, progress in sorted(self._progress.items()):
            share = _share(progress)
            rows.add_row(
                Text(name, style="bold"),
                Text(str(progress.get("phase", ""))),
                Text(_task_words(progress)),
                Text(_step_words(progress), justify="right"),
                Text(f"loss {show(progress.get('loss'))}", justify="right"),
                ProgressBar(total=1.0, completed=share, width=14),
                Text(f"{share:4.0%}"),
            )
        return rows


def _share(progress: Mapping[str, Any]) -> float:
    return min(1.0, max(0.0, float(progress.get("done") or 0.0)))


def _task_words(progress: Mapping[str, Any]) -> str:
    if not progress.get("task"):
        return "-"
    index, count = progress.get("task_index"), progress.get("tasks")
    place = f" {index + 1}/{count}" if isinstance(index, int) and index >= 0 and count else ""
    return f"{progress['task']}{place}"


def _step_words(progress: Mapping[str, Any]) -> str:
    if progress.get("step") is None:
        return "-"
    return f"{progress['step']}/{progress.get('steps') or '-'}"


def _phase_words(progress: Mapping[str, Any]) -> str:
    words = [str(progress.get("phase", "")), _task_words(progress), _step_words(progress)]
    return " ".join(word for word in words if word not in {"", "-"})


def describe(line: Line, view: SweepView) -> str:
    """One journal line in words, empty for one that needs none.

    Args:
        line: The line.
        view: The sweep, with the line taken already.

    Returns:
        A sentence without a final stop.
    """
    match line["event"]:
        case "sweep_opened":
            told = f"{view.kind} {view.name}: {_count(view.total, 'trial')} over "
            told += ", ".join(view.tasks)
        case "trial_proposed":
            told = f"{line['trial']} proposed: {_chosen(line.get('overrides', {}))}"
        case "trial_started":
            attempt = line.get("attempt", 1)
            told = f"{line['trial']} starts" + (f" again, attempt {attempt}" * (attempt > 1))
        case "stage_report":
            told = _describe_report(line["trial"], line["report"])
        case "trial_ended":
            told = _describe_end(view, view.trial(line["trial"]))
        case "sweep_ended":
            who = f"champion {line['champion']}" if line["champion"] else "no champion"
            told = f"ended, {who}: {line['reason']}"
        case "champion_registered":
            told = f"registered {line['trial']} as {line['model']}, version {line['version']}"
        case _:
            told = ""
    return told


def _chosen(overrides: Mapping[str, Any]) -> str:
    words = [f"{k.rsplit('.', 1)[-1]} {show_setting(k, v)}" for k, v in overrides.items()]
    return ", ".join(words) or "the settings of the file"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _describe_report(trial: str, report: Mapping[str, Any]) -> str:
    if report["task_index"] < 0:
        scores = " ".join(show(_number(score)) for score in report.get("row") or [])
        return f"{trial}: scores of the untouched base {scores}"
    told = (
        f"{trial}: {report['task']} {report.get('fraction', 0):.0%} "
        f"(step {report.get('step')}/{report.get('steps')}), score {show(report.get('score'))}, "
        f"loss {show(report.get('loss'))}"
    )
    if report.get("row"):
        told += ", all tasks " + " ".join(show(_number(score)) for score in report["row"])
    return told


def _describe_end(view: SweepView, trial: TrialView) -> str:
    done = f"{len(view.finished)} of {view.total} trials"
    if trial.name == BASE:
        return f"{BASE} {trial.state.lower()}"
    if trial.state == "FAILED":
        return f"{_failure(trial)}; {done}"
    gain = f"gain {show(trial.measure('gain'), signed=True)} {show_interval(trial.gain_interval)}"
    cost = f"{show(trial.measure('cost_s'), digits=0)} s"
    why = f" ({trial.reason})" if trial.reason else ""
    return f"{trial.name} {trial.state.lower()}{why}: {gain}, {cost}; {done}"
