"""What a journal says of some of its trials, from their lines alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.records.events import SweepContinued, read_event
from orchestrator.records.parts.journal_scan import Span
from orchestrator.records.parts.trial_part import line_of
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.registry.index.trial_values import TrialValues, trial_values

_NEEDED = frozenset(
    ("sweep_opened", "sweep_continued", "sweep_ended", "budget_spent", "test_read",
     "champion_registered")
)  # fmt: skip
"""The lines that are of no trial, and say something of the sweep."""


@dataclass(frozen=True)
class Folded:
    """A trial whose lines have all been taken."""

    number: int
    """Of the first line that names it."""
    values: TrialValues


@dataclass(frozen=True)
class SweepFacts:
    """What a journal says of a sweep itself and of the untouched base."""

    state: SweepState
    """The base is the only one of its trials."""
    restarts: tuple[tuple[int, str], ...]
    """The lines that let a trial start over, and the trial."""


def sweep_facts(file: IO[bytes], path: Path, spans: Iterable[Span], *, touched: int) -> SweepFacts:
    """What a journal says of the sweep itself.

    Args:
        file: The journal, open for reading.
        path: Its path.
        spans: The lines of no trial, and those of the base.
        touched: The last line that voids a verdict before it.

    Returns:
        What all its trials share.
    """
    state, restarts = SweepState(whole=False), list[tuple[int, str]]()
    for span in sorted(spans, key=lambda span: span.n):
        if not span.trial and span.event not in _NEEDED:
            continue
        if span.event == "sweep_ended" and span.n < touched:
            continue
        event = read_event(line_of(file, path, span))
        state.take(event)
        if isinstance(event, SweepContinued):
            restarts += [(span.n, name) for name in event.retried]
    for name in [name for name in state.everything if name != BASE_TRIAL]:
        del state.everything[name]
    return SweepFacts(state, tuple(restarts))


def folded_trials(
    file: IO[bytes], path: Path, sweep: SweepFacts, spans: Iterable[Span]
) -> Iterator[Folded]:
    """What a journal says of some trials.

    Args:
        file: The journal, open for reading.
        path: Its path.
        sweep: The sweep; its verdict is as it was once all trials are taken.
        spans: All lines of these trials, the base not among them.

    Yields:
        Each trial once its last line is taken; it is not kept.
    """
    state = sweep.state
    steps: list[tuple[int, str, Span | None]] = [(span.n, span.trial, span) for span in spans]
    steps.sort(key=lambda step: step[0])
    first: dict[str, int] = {}
    for n, trial, _ in steps:
        first.setdefault(trial, n)
    steps += [(n, trial, None) for n, trial in sweep.restarts if trial in first]
    steps.sort(key=lambda step: step[0])
    last = {trial: n for n, trial, _ in steps}
    verdict, proposed = state.verdict, dict[str, float | None]()
    for n, name, span in steps:
        if span is None:
            state.trial(name).start_over()
        else:
            event = read_event(line_of(file, path, span))
            state.take(event)
            if span.event == "trial_proposed":
                proposed[name] = event.time
        if n == last[name]:
            trial = state.everything.pop(name)
            yield Folded(first[name], trial_values(state, trial, proposed.pop(name, None)))
    state.verdict = verdict
