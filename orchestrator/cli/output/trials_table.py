"""The table of a sweep's trials: settings, measures and state of each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.output.tables import add_cells, natural_width, table
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.formatting import count, show, show_interval, show_setting

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


def trial_tables(
    view: SweepState, width: int, trials: Sequence[TrialRecord] | None = None
) -> list[RenderableType]:
    """Trials with settings and measures, in two tables where one is too wide."""
    trials = view.trials if trials is None else trials
    settings = {trial.name: view.settings(trial) for trial in trials}
    set_by = {path for t in trials if t.is_searched or t.of for path in t.overrides}
    others = sorted(set_by - set(_SHOWN_SETTINGS))
    shown = _SHOWN_SETTINGS | {path: path.rsplit(".", 1)[-1] for path in others}
    words = {"trial", "kind", "state"}
    counted = ["exam-\nples"] if any(map(view.is_screened, trials)) else []
    measures = [*_SHOWN_MEASURES, *counted]
    rows = [
        (
            _marked(view, trial),
            [show_setting(path, settings[trial.name].get(path)) for path in shown],
            _measure_cells(trial) + [str(sum(view.examples(trial).values())) for _ in counted],
            _style(view, trial),
        )
        for trial in trials
    ]
    title = f"{'Run' if view.kind == 'run' else 'Sweep'} {view.name}: {_progress_words(view)}"
    if len(trials) < len(view.trials):
        title += f", {len(trials)} chosen"
    whole = table(title, "trial", *shown.values(), *measures, left=words)
    first = table(title, "trial", *measures, left=words)
    second = table("Settings", "trial", *shown.values(), left=words)
    for name, left, right, style in rows:
        add_cells(whole, [name, *left, *right], style)
        add_cells(first, [name, *right], style)
        add_cells(second, [name, *left], style)
    tables: list[RenderableType] = [whole]
    if natural_width(whole) > width:
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


def _progress_words(view: SweepState) -> str:
    done, total = len(view.finished), view.total
    many = count(total, "trial")
    if view.ended:
        return many if done == total else f"ended after {done} of {many}"
    return f"{done} of {many} finished so far"


def _marked(view: SweepState, trial: TrialRecord) -> str:
    if trial.name == view.champion:
        return f"{trial.name} *"
    if trial.of is not None:
        return f"{trial.name} = {trial.of}"
    return f"{trial.name} +" if trial.name in view.front else trial.name


def _style(view: SweepState, trial: TrialRecord) -> str:
    if trial.name == view.champion:
        return "bold green"
    return {"FAILED": "red", "STOPPED": "dim"}.get(trial.state, "")


def _measure_cells(trial: TrialRecord) -> list[str]:
    return [
        show(trial.measure("gain"), signed=True),
        show_interval(trial.gain_interval),
        show(trial.measure("accuracy")),
        show(trial.measure("forgetting"), signed=True),
        show(trial.measure("probe_drift"), signed=True),
        show(trial.measure("cost_s"), digits=0),
        trial.state.lower(),
    ]


def failure(trial: TrialRecord) -> str:
    """One sentence on a failed trial: why, and where its log is."""
    return f"{trial.name} failed: {trial.reason or 'no reason was recorded'}" + (
        f" (log: {trial.log})" if trial.log else ""
    )


def render_trials(
    view: SweepState, width: int, trials: Sequence[TrialRecord] | None = None
) -> RenderableType:
    """The trials of one sweep for people, without the rest of the outcome.

    Args:
        view: The sweep.
        width: Columns to lay the tables out for.
        trials: Which of them, in which order; by default all.

    Returns:
        Tables.
    """
    return Group(*trial_tables(view, width, view.trials if trials is None else trials))
