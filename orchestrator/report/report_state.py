"""What a report reads of a journal: of many trials most without what only single trials show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.records.event import Line
from orchestrator.records.events import CellsScored, StageReported, read_event
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.report.deciding.comparisons import METHOD_CONTROLS, best_of
from orchestrator.report.shown_trials import MOST, shown_trials


def report_state(lines: Sequence[Line]) -> SweepState:
    """A sweep as its report needs it.

    Args:
        lines: Its journal.

    Returns:
        All trials. Where there are more than are shown one by one, losses and the score of each
        example are those of the trials that are shown or compared, and the others are without.
    """
    state = SweepState.of(lines, whole=False)
    if len(state.trials) <= MOST:
        return SweepState.of(lines)
    for name in _looked_into(state):
        _make_whole(state.everything[name], lines)
    return state


def _looked_into(state: SweepState) -> Iterable[str]:
    """The trials of which a report shows losses, or the score of each example."""
    finalists = [name for one in state.finalists for name in (one.trial, *one.repeats)]
    best = [state.best, *(best_of(state, preset) for preset in METHOD_CONTROLS)]
    shown = [trial.name for trial in shown_trials(state).view.trials]
    names = [BASE_TRIAL, state.champion, state.runner_up, *finalists, *shown]
    names += [trial.name for trial in best if trial is not None]
    # A verdict may name a trial whose lines a repaired journal has lost.
    return dict.fromkeys(name for name in names if name in state.everything)


def _make_whole(trial: TrialRecord, lines: Sequence[Line]) -> None:
    for stage, number in trial.lines.items():
        event = read_event(lines[number])
        assert isinstance(event, StageReported), "a report stands in such an event"
        trial.by_stage[stage] = event.report
    for number in trial.later_lines:
        event = read_event(lines[number])
        assert isinstance(event, CellsScored), "what was scored later is such an event"
        trial.later |= {(event.learnt, task): scores for task, scores in event.scores.items()}
