"""Some trials of a sweep as its journal has them, read without the lines of all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

from orchestrator.records.errors import JournalError
from orchestrator.records.event import Line
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.parts.journal_scan import OF_TRIALS, SCORED_LATER, Span, scanned
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.system.strict_json import plain

PartOf = Callable[[Sequence[str]], SweepState]
"""From the names of trials to a sweep with these."""


def line_of(file: IO[bytes], path: Path, span: Span) -> Line:
    """Read one line of a journal.

    Args:
        file: The journal, open for reading.
        path: Its path, for the message.
        span: Where the line is.

    Returns:
        The line without its sum.

    Raises:
        JournalError: It is not there any more.
    """
    file.seek(span.start)
    raw = file.read(span.length)
    try:
        line: Line = plain(raw)
    except ValueError as error:
        raise JournalError(
            f"{path}: line {span.n + 1} is damaged ({error}). `orchestrate repair "
            f"{path.parent.name} --storage {path.parent.parent}` keeps what can be kept."
        ) from None
    line.pop("sum", None)
    return line


def folded_part(
    file: IO[bytes], path: Path, spans: Iterable[Span], trials: Iterable[str], *, touched: int
) -> SweepState:
    """A sweep with some of its trials.

    Args:
        file: The journal, open for reading.
        path: Its path, for messages.
        spans: The lines of no trial, of the untouched base and of these trials, in order.
        trials: Their names.
        touched: The number of the last line of any trial's own: a verdict before it is void.

    Returns:
        What the journal says of the sweep itself, of the untouched base and of these trials.

    Raises:
        JournalError: A line is damaged.
    """
    state = SweepState.of(line_of(file, path, span) for span in spans)
    if state.verdict is not None and state.verdict.n < touched:
        state.verdict = None  # a trial that is not here went on after it
    for name in state.everything.keys() - {BASE_TRIAL, *trials}:
        del state.everything[name]  # one that starts over: a line of no trial names it
    return state


def with_taken_over(part_of: PartOf, trials: Iterable[str]) -> SweepState:
    """A sweep with all that the cards of some trials' adapters say.

    Args:
        part_of: Reads some trials; leaves out those that the journal does not know, unless they
            are among `trials`.
        trials: The names of the trials.

    Returns:
        The sweep with these and with the trials whose training they have taken over.
    """
    names = dict.fromkeys(trials)
    while True:
        state = part_of(list(names))
        taken = {name for trial in state.trials for name in trial.taken_over.values()}
        # One of another sweep has its name before a slash.
        wanted = sorted(name for name in taken - names.keys() if "/" not in name)
        if not wanted:
            return state
        names |= dict.fromkeys(wanted)


def adapter_part(folder: Path, trials: Iterable[str]) -> SweepState:
    """A sweep with all that the cards of some trials' adapters say; every line is checked.

    Args:
        folder: The sweep's folder.
        trials: The names of the trials; those that the journal does not know are left out.

    Returns:
        What its journal says of the sweep itself, of the untouched base, of these trials and of
        those whose training they have taken over. What is counted over all trials is not in it.

    Raises:
        JournalError: The journal is damaged, or not there.
    """
    path = folder / JOURNAL_NAME
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalError(f"Cannot read the journal {path}: {error.strerror or error}.") from None
    with file:
        spans = list(scanned(file, path, start=0, number=0, before=b""))
        own = (s.n for s in spans if s.event in OF_TRIALS - SCORED_LATER)
        touched = max(own, default=-1)

        def part_of(names: Sequence[str]) -> SweepState:
            wanted = {"", BASE_TRIAL, *names}
            here = (span for span in spans if span.trial in wanted)
            return folded_part(file, path, here, names, touched=touched)

        return with_taken_over(part_of, trials)
