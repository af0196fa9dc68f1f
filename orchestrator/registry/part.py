"""Some trials of a sweep as its journal has them, read without the lines of all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.parts.trial_part import folded_part, with_taken_over
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.registry.index.index import Index
from orchestrator.system.user_error import UsageError
from orchestrator.system.wording import suggestion

_MOST_NAMED = 40
"""Trials that a message names."""


@dataclass(frozen=True)
class Whole:
    """What is counted over all trials of a sweep."""

    trials: int
    finished: int
    planned: int
    """How many there are to be."""
    seeds: frozenset[int]
    """Of the trials that were searched."""

    @classmethod
    def of(cls, state: SweepState) -> Whole:
        """Count over the trials of a sweep that is here whole."""
        # One trial for each way in which a seed may have been set: there may be ten thousand.
        ways = {
            repr([trial.overrides.get(path) for path in ("training", "training.seed")]): trial
            for trial in state.searched
        }
        found = (state.settings(trial).get("training.seed") for trial in ways.values())
        seeds = frozenset(seed for seed in found if seed is not None)
        return cls(len(state.trials), len(state.finished), state.total, seeds)


def summary_of(index: Index, sweep: str, most: int) -> tuple[Path, SweepState, Whole]:
    """A sweep with the trials that its verdict speaks of, and those with the largest gains.

    Args:
        index: The index of its storage folder.
        sweep: Its name.
        most: How many trials of either kind there are at most.

    Returns:
        Its folder, its part as `part_of` gives it, and what is counted over all of its trials.

    Raises:
        UsageError: There is no such sweep.
        JournalError: Its journal is damaged.
    """
    (document,) = index.sweeps([sweep])
    asked = {"sweep": sweep, "columns": ["trial"]}
    repeats = index.search("of is not missing", limit=most, **asked).rows
    best = index.search(order=["-gain"], limit=most, **asked).rows
    spoken_of = [document["champion"], document["runner_up"], *document["front"][:most]]
    names = [*filter(None, spoken_of), *(row["trial"] for row in [*repeats, *best])]
    # A verdict may name a trial whose lines a repaired journal has lost.
    known = index.lines(sweep, names).spans
    held = {span.trial for span in known}
    folder, state = part_of(index, sweep, [name for name in names if name in held])
    searched = index.search(
        "of is missing and by != comparison", sweep=sweep, columns=["training.seed"], limit=None
    )
    found = (row["training.seed"] for row in searched.rows)
    seeds = frozenset(seed for seed in found if seed is not None)
    whole = Whole(
        sum(document["trials_by_state"].values()),
        document["trials_finished"],
        document["trials_planned"],
        seeds,
    )
    return folder, state, whole


def part_of(index: Index, sweep: str, trials: Iterable[str]) -> tuple[Path, SweepState]:
    """A sweep with some of its trials.

    Args:
        index: The index of its storage folder.
        sweep: Its name.
        trials: The names of the trials.

    Returns:
        Its folder, and what its journal says of the sweep itself, of the untouched base and of
        these trials: what is counted over all trials is not in it, see `Index.sweeps` for that.

    Raises:
        UsageError: There is no such sweep, or no such trial.
        JournalError: Its journal is damaged.
    """
    names = _known(index, sweep, trials)
    return index.storage / sweep, _part(index, sweep, names)


def adapter_part(index: Index, sweep: str, trials: Iterable[str]) -> tuple[Path, SweepState]:
    """A sweep with all that the cards of some trials' adapters say.

    Args:
        index: The index of its storage folder.
        sweep: Its name.
        trials: The names of the trials.

    Returns:
        As `part_of`, with the trials whose training these have taken over.

    Raises:
        UsageError: There is no such sweep, or no such trial.
        JournalError: Its journal is damaged.
    """
    names = _known(index, sweep, trials)
    return index.storage / sweep, with_taken_over(partial(_part, index, sweep), names)


def _known(index: Index, sweep: str, trials: Iterable[str]) -> list[str]:
    """Names of trials, once each; one that the sweep does not have is a `UsageError`."""
    names = list(dict.fromkeys(trials))
    found = {span.trial for span in index.lines(sweep, names).spans}
    for name in names:
        if name not in found:
            _no_trial(index, sweep, name)
    return names


def _part(index: Index, sweep: str, names: Sequence[str]) -> SweepState:
    """What a journal says of the sweep and of those of some trials that it has."""
    places = index.lines(sweep, ["", BASE_TRIAL, *names])
    path = index.storage / sweep / JOURNAL_NAME
    with path.open("rb") as file:
        return folded_part(file, path, places.spans, names, touched=places.touched)


def _no_trial(index: Index, sweep: str, name: str) -> None:
    rows = index.search(sweep=sweep, columns=["trial"], limit=None).rows
    known = [BASE_TRIAL, *(row["trial"] for row in rows)]
    more = f" and {len(known) - _MOST_NAMED:,} more" if len(known) > _MOST_NAMED else ""
    raise UsageError(
        f"No trial {name!r} in sweep {sweep!r}.{suggestion(name, known)} "
        f"Its trials: {', '.join(known[:_MOST_NAMED])}{more}."
    )
