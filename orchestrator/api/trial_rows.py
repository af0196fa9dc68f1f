"""The trials of a sweep as rows of one table, which filters, CSV files and data frames show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.readings import CONTROLS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.index.fields import INTERVALS

WORDS = ("trial", "state", "of", "on_front", "champion", "examples")
"""The columns that say what a trial is: `of` names the trial that it repeats, `examples` how many
validation examples of all tasks it was measured on (None where that is not recorded)."""


def columns(view: SweepState) -> list[str]:
    """The columns of a sweep's table of trials.

    Args:
        view: The sweep.

    Returns:
        `WORDS`, the measures, `INTERVALS`, the settings by their dotted paths, and `reason`.
    """
    settings = (path for trial in view.trials for path in view.settings(trial))
    return [*WORDS, *NATURAL_DIRECTIONS, *INTERVALS, *dict.fromkeys(settings), "reason"]


def trial_rows(
    view: SweepState, trials: Iterable[TrialRecord] | None = None
) -> list[dict[str, Any]]:
    """Trials as rows.

    Args:
        view: The sweep.
        trials: Which of its trials, in which order; None: all, as they were proposed.

    Returns:
        A value for each of `WORDS`, of the measures, of `INTERVALS`, of the trial's own settings
        and `reason`; None where it was not measured.
    """
    return [_row(view, trial) for trial in (view.trials if trials is None else trials)]


def _row(view: SweepState, trial: TrialRecord) -> dict[str, Any]:
    intervals = [trial.gain_interval, *map(trial.interval, CONTROLS)]
    ends = [end for interval in intervals for end in interval or (None, None)]
    return {
        "trial": trial.name,
        "state": trial.state,
        "of": trial.of,
        "on_front": trial.name in view.front,
        "champion": trial.name == view.champion,
        "examples": sum(view.examples(trial).values()) or None,
        **{name: trial.measures.get(name) for name in NATURAL_DIRECTIONS},
        **dict(zip(INTERVALS, ends, strict=True)),
        **view.settings(trial),
        "reason": trial.reason,
    }
