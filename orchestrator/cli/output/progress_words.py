"""The progress of a sweep in words: journal lines, running trials, the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.cli.output.trials_table import failure
from orchestrator.records.event import Event
from orchestrator.records.events import (
    CellsScored,
    ChampionRegistered,
    ExtensionMeasured,
    FaultSurvived,
    JournalRepaired,
    StageReported,
    SweepContinued,
    SweepEnded,
    SweepOpened,
    TestRead,
    TrialEnded,
    TrialMeasured,
    TrialProposed,
    TrialStarted,
)
from orchestrator.records.extension_words import COMPARED_WORDS, extension_words
from orchestrator.records.faults.fault_words import fault_words
from orchestrator.records.readings import reading_words
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, COMPARISON, TrialRecord
from orchestrator.system.formatting import count, show, show_interval, show_setting


def base_words(view: SweepState) -> str:
    """What the untouched base scores, as soon as that is known."""
    scores = view.control_scores("zero_shot")
    known = [
        f"{task} {show(score)}"
        for task, score in zip(view.tasks, scores, strict=True)
        if not math.isnan(score)
    ]
    return ", ".join(known) or "-"


def best_words(view: SweepState) -> str:
    """The best trial by what is known: its gain, or how far it is and what it scores there."""
    best = view.best
    if best is not None:
        gain = show(best.measure("gain"), signed=True)
        return f"{best.name}, gain {gain} {show_interval(best.gain_interval)}"
    leading = view.leading
    if leading is None:
        return "-"
    report, ahead = leading.report, show(leading.ahead, signed=True)
    words = f"{leading.trial}, score {show(leading.score)} on "
    if report.row:
        words += f"all tasks after {report.task}"
    else:
        words += f"{report.task} at {report.fraction:.0%}"
    return words + (f", {ahead} over the untouched base" if not math.isnan(leading.ahead) else "")


def share_done(progress: Mapping[str, Any]) -> float:
    """The share of a running trial that is done, from 0 to 1."""
    return min(1.0, max(0.0, float(progress.get("done") or 0.0)))


def task_place(progress: Mapping[str, Any]) -> str:
    """The task that a running trial is at, and which of how many it is."""
    if not progress.get("task"):
        return "-"
    index, count = progress.get("task_index"), progress.get("tasks")
    place = f" {index + 1}/{count}" if isinstance(index, int) and index >= 0 and count else ""
    return f"{progress['task']}{place}"


def step_place(progress: Mapping[str, Any]) -> str:
    """The step that a running trial is at, of how many."""
    if progress.get("step") is None:
        return "-"
    return f"{progress['step']}/{progress.get('steps') or '-'}"


def phase_words(progress: Mapping[str, Any]) -> str:
    """What a running trial does: phase, task and step."""
    words = [str(progress.get("phase", "")), task_place(progress), step_place(progress)]
    return " ".join(word for word in words if word not in {"", "-"})


def describe(event: Event, view: SweepState) -> str:
    """One event in words, empty for one that needs none.

    Args:
        event: The event.
        view: The sweep, with the event taken already.

    Returns:
        A sentence without a final stop.
    """
    match event:
        case SweepOpened():
            words = f"{view.kind} {view.name}: {count(view.total, 'trial')} over "
            words += ", ".join(view.tasks)
        case SweepContinued():
            retried = event.retried
            words = f"running again what failed: {', '.join(retried)}" if retried else ""
        case TrialProposed() | TrialStarted() | StageReported() | TrialEnded():
            words = _describe_trial(event, view)
        case CellsScored() | TrialMeasured():
            words = _describe_later(event)
        case SweepEnded():
            who = f"champion {event.champion}" if event.champion else "no champion"
            words = f"ended, {who}: {event.reason}"
        case ExtensionMeasured():
            shown = [name for name in event.sides if view.trial(name).is_searched]
            words = " ".join(extension_words(event, name) for name in shown).rstrip(".")
        case TestRead():
            words = reading_words(event) if event.reading else view.test_words
        case FaultSurvived() | JournalRepaired():
            words = fault_words(event)
        case ChampionRegistered():
            words = f"registered {event.trial} as {event.model}, version {event.version}"
        case _:
            words = ""
    return words


def _describe_later(event: CellsScored | TrialMeasured) -> str:
    if isinstance(event, TrialMeasured):
        gain = show(event.measures.get("gain"), signed=True)
        on = f"{sum(event.examples.values())} examples"
        return f"{event.trial} measured on {on}: gain {gain} {show_interval(event.gain_interval)}"
    scores = ", ".join(
        f"{task} {show(found.value)} of {found.examples}" for task, found in event.scores.items()
    )
    failed = "; ".join(f"{task}: {why}" for task, why in (event.unscored or {}).items())
    told = " ".join(filter(None, (scores, failed and f"not scored: {failed}")))
    return f"{event.trial} after {count(event.learnt, 'task')}: {told}"


def _describe_trial(
    event: TrialProposed | TrialStarted | StageReported | TrialEnded, view: SweepState
) -> str:
    match event:
        case TrialProposed():
            known = COMPARED_WORDS.get(event.trial) if event.by == COMPARISON else None
            return f"{event.trial} proposed: {known or _chosen(event.overrides)}"
        case TrialStarted():
            again = f" again, attempt {event.attempt}" * (event.attempt > 1)
            return f"{event.trial} starts{again}"
        case StageReported():
            return _describe_report(event.trial, event.report)
        case TrialEnded():
            return _describe_end(view, view.trial(event.trial))


def _chosen(overrides: Mapping[str, Any]) -> str:
    words = [
        f"{k.rsplit('.', 1)[-1]} {show_setting(k, v, exact=True)}" for k, v in overrides.items()
    ]
    return ", ".join(words) or "the settings of the file"


def _describe_report(trial: str, report: StageReport) -> str:
    scores = " ".join(map(show, report.row or ()))
    if report.task_index < 0:
        return f"{trial}: scores of the untouched base {scores}"
    words = (
        f"{trial}: {report.task} {report.fraction:.0%} (step {report.step}/{report.steps}), "
        f"score {show(report.score)}, loss {show(report.loss)}"
    )
    if report.row:
        words += f", all tasks {scores}"
    return words


def _describe_end(view: SweepState, trial: TrialRecord) -> str:
    done = f"{len(view.finished)} of {view.total} trials"
    if trial.name == BASE_TRIAL:
        return f"{BASE_TRIAL} {trial.state.lower()}"
    if trial.state == "FAILED":
        return f"{failure(trial.name, trial.reason, trial.log)}; {done}"
    gain = f"gain {show(trial.measure('gain'), signed=True)} {show_interval(trial.gain_interval)}"
    cost = f"{show(trial.measure('cost_s'), digits=0)} s"
    why = f" ({trial.reason})" if trial.reason else ""
    return f"{trial.name} {trial.state.lower()}{why}: {gain}, {cost}; {done}"
