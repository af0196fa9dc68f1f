"""What the index holds of a trial: the columns of its own row, and its values by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.event_values import EarlyStop
from orchestrator.records.events import TestRead
from orchestrator.records.readings import CONTROLS
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.index.fields import INTERVALS
from orchestrator.registry.index.trial_document import trial_document
from orchestrator.registry.query.fields import WORDS
from orchestrator.registry.query.values import given, held


@dataclass(frozen=True)
class TrialValues:
    """A trial as the index holds it."""

    words: dict[str, Any]
    """By column of the table `trial`."""
    values: dict[str, tuple[str, Any]] = field(default_factory=dict[str, tuple[str, Any]])
    """By name: which group it is of, and the value."""
    adapter: str | None = None
    """Where its adapter is, relative to the sweep's folder."""
    document: dict[str, Any] = field(default_factory=dict[str, Any])
    """See `trial_document`."""


def trial_values(state: SweepState, trial: TrialRecord, proposed: float | None) -> TrialValues:
    """What the index holds of a trial.

    Args:
        state: Its sweep; of its trials, only this one and the untouched base need be in it.
        trial: The trial.
        proposed: When it was proposed, in seconds since the epoch.

    Returns:
        Its words and values; whether it is on the front is a matter of the sweep.
    """
    settings = state.settings(trial)
    last = trial.reports[-1] if trial.reports else None
    searched_gain = trial.searched_measure("gain")
    words = {
        "name": trial.name,
        "state": trial.state,
        "of": trial.of,
        "by": trial.by,
        "examples": sum(state.examples(trial).values()) or None,
        "tasks": ", ".join(map(str, state.order_of(trial))),
        "task": last.task if last else None,
        "learnt": len(trial.learnt_rows),
        "proposed": proposed,
        "begun": trial.started,
        "ended": trial.ended,
        "seconds": last.seconds if last else None,
        "tokens": last.tokens if last else None,
        "core_seconds": _core_seconds(settings, last),
        "stopped": _why_stopped(trial),
        "reason": trial.reason or None,
        "log": trial.log,
        "adapter": trial.adapter is not None,
        "pruned": None,  # the journal does not say it
        "screened": state.is_screened(trial),
        "overrides": held(trial.overrides) if trial.overrides else None,
        "searched": trial.is_searched,
        "over": trial.over,
        "joint": settings.get("method.sequence") == "joint",
        "searched_gain": None if math.isnan(searched_gain) else searched_gain,
        "gain": trial.measures.get("gain"),
    }
    values = dict(_values(state, trial, settings))
    return TrialValues(words, values, trial.adapter, trial_document(state, trial, settings))


def row_of(state: SweepState, trial: TrialRecord) -> dict[str, Any]:
    """A trial as a search gives it, from its sweep.

    Args:
        state: Its sweep, whole.
        trial: The trial.

    Returns:
        By name, without what only the index knows (its folder, when it was proposed).
    """
    found = trial_values(state, trial, None)
    row: dict[str, Any] = {"sweep": state.name}
    for name, word in WORDS.items():
        table, _, column = word.sql.partition(".")
        if table == "trial" and column in found.words:
            row[name] = given(found.words[column])
    marks = {"on_front": trial.name in state.front, "champion": trial.name == state.champion}
    tested = test_gains(state.readings).get(trial.name, {})
    return {**row, **marks, **tested, **{name: value for name, (_, value) in found.values.items()}}


def test_gains(readings: Iterable[TestRead]) -> dict[str, dict[str, float | None]]:
    """What readings of the test data say of trials: of each trial the first that shows it.

    Args:
        readings: A sweep's, oldest first.

    Returns:
        By trial `test_gain`, `test_gain_low` and `test_gain_high`.
    """
    found: dict[str, dict[str, float | None]] = {}
    for reading in readings:
        for name in reading.sides if reading.reading else ():
            low, high = reading.gain_intervals.get(name) or (None, None)
            gain = reading.gain.get(name)
            own = {"test_gain": gain, "test_gain_low": low, "test_gain_high": high}
            found.setdefault(name, own)
    return found


def _core_seconds(settings: Mapping[str, Any], last: StageReport | None) -> float | None:
    """The CPUs that a trial's workers hold, times its seconds; None where either is not known."""
    workers, each = (settings.get(f"resources.{name}") for name in ("workers", "cpus_per_worker"))
    if last is None or not isinstance(workers, int) or not isinstance(each, int):
        return None
    return last.seconds * workers * each


def _values(
    state: SweepState, trial: TrialRecord, settings: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, Any]]]:
    for name in dict.fromkeys([*NATURAL_DIRECTIONS, *trial.measures]):
        yield name, ("measure", trial.measures.get(name))
    intervals = [trial.gain_interval, *map(trial.interval, CONTROLS)]
    ends = [end for interval in intervals for end in interval or (None, None)]
    for name, end in zip(INTERVALS, ends, strict=True):
        yield name, ("interval", end)
    for path, value in settings.items():
        yield path, ("setting", value)
    for task, score in _final_scores(state, trial):
        yield f"score.{task}", ("score", score)


def _final_scores(state: SweepState, trial: TrialRecord) -> Iterator[tuple[str, float]]:
    """By task, the score after the last task that was learnt so far."""
    matrix = state.matrix(trial)
    if matrix is not None and len(matrix.rows) > 1:
        yield from zip(matrix.tasks, matrix.rows[-1], strict=True)


def _why_stopped(trial: TrialRecord) -> str | None:
    if trial.state != "STOPPED":
        return None
    stop = trial.stop or EarlyStop()
    if not stop.measure:
        return trial.reason or "stopped"
    return f"{stop.measure} {'below the limit' if stop.rival is None else f'behind {stop.rival}'}"
