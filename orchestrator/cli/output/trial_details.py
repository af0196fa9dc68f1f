"""Everything about one trial for people: settings, measures, matrix, reports, paths."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output.tables import add_cells, table
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.cards.pruned import pruned_words
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.formatting import show, show_interval, show_setting


def render_trial(view: SweepState, trial: TrialRecord, folder: Path) -> RenderableType:
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
        add_cells(settings, [path, show_setting(path, value, exact=True)])
    numbers = table("Measures", "measure", "value", "better", left={"measure", "better"})
    for name, direction in NATURAL_DIRECTIONS.items():
        better = "more" if direction == "max" else "less"
        add_cells(numbers, [name, show(trial.measure(name)), better])
    add_cells(numbers, ["gain, 95 % interval", show_interval(trial.gain_interval), ""])
    parts: list[RenderableType] = [head, Text(), settings, Text(), numbers, Text()]
    for made in matrix_tables(view, trial):
        parts += [made, Text()]
    parts += [_report_table(trial), Text()]
    log = SweepFolder(folder).written_log(trial)
    paths = Text(f"log      {log}", no_wrap=True, overflow="ignore")
    if trial.adapter:
        place = folder / trial.adapter
        why = pruned_words(place)
        paths.append(f"\nadapter  {place if why is None else f'none: {why}'}")
    parts.append(paths)
    return Group(*parts)


def matrix_tables(view: SweepState, trial: TrialRecord) -> list[Table]:
    """The accuracy matrix of a trial, and its scores on tasks that its sweep does not have."""
    names, tables = ["(untouched base)", *view.order_of(trial)], list[Table]()
    matrix = view.matrix(trial)
    if matrix is not None:
        made = table("Scores on each task", "after", *matrix.tasks, left={"after"})
        for name, row in zip(names, matrix.rows, strict=False):
            add_cells(made, [name, *(show(score) for score in row)])
        counts = view.examples(trial)
        if counts:
            add_cells(made, ["examples", *(str(counts.get(t, "-")) for t in matrix.tasks)], "dim")
        tables.append(made)
    others = view.other_scores(trial)
    if others:
        made = table("Scored later, on tasks that the sweep does not have", "after", *others,
                     left={"after"})  # fmt: skip
        for learnt in sorted({learnt for cells in others.values() for learnt in cells}):
            found = [cells.get(learnt) for cells in others.values()]
            shown = [
                "-" if one is None else f"{show(one.value)} of {one.examples}" for one in found
            ]
            add_cells(made, [names[learnt], *shown])
        tables.append(made)
    return tables


def _report_table(trial: TrialRecord) -> Table:
    # Only some retentions multiply a penalty by a number, which may have been found by itself.
    held = ["strength"] if any(r.strength is not None for r in trial.reports) else []
    made = table(
        "Reports", "task", "step", "share", "score", "loss", "tokens", "seconds", *held, "probes",
        left={"task", "probes"},
    )  # fmt: skip
    for report in trial.reports:
        probes = " ".join(
            f"{name} {show(next(iter(reading.values()), None))}"
            for name, reading in (report.probes or {}).items()
        )
        add_cells(
            made,
            [
                str(report.task or "(untouched base)"),
                f"{report.step}/{report.steps}",
                show(report.fraction, digits=2),
                show(report.score),
                show(report.loss),
                str(report.tokens),
                show(report.seconds, digits=1),
                *(_strength(report.strength) for _ in held),
                probes or "-",
            ],
        )
    return made


def _strength(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
