"""What went wrong and was survived, in words: the same for the display and for the report."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.records.faults.fault_events import (
    FAULTS,
    FaultSurvived,
    JournalRepaired,
    SetAside,
)
from orchestrator.system.formatting import count, moment, show_duration

Fault = FaultSurvived | JournalRepaired | SetAside


def fault_words(fault: Fault) -> str:
    """One sentence without a final stop: what, whose work was lost, how much."""
    match fault:
        case SetAside():
            return f"{fault.what} is not used, and kept as {fault.kept_as}: {fault.because}"
        case JournalRepaired():
            return "; ".join(repair_lines(fault)) or "the journal was repaired"
        case FaultSurvived():
            return _survived(fault)


def lost_words(lost: Mapping[str, float]) -> str:
    """Whose work was lost, and how much of it."""
    if not lost:
        return "no work of a trial was lost"
    each = ", ".join(f"{trial} {show_duration(seconds)}" for trial, seconds in lost.items())
    return f"done again, since the last report: {each}"


def _survived(fault: FaultSurvived) -> str:
    words = f"{fault.where}: {FAULTS.get(fault.what, fault.what)}"
    if fault.since is not None:
        lasted = None if fault.until is None else show_duration(fault.until - fault.since)
        words += f" since {moment(fault.since)}, " + (f"for {lasted}" if lasted else "to the end")
    if fault.because:
        words += f" ({fault.because.rstrip('.')})"
    return f"{words}; {lost_words(fault.lost)}"


def repair_lines(repaired: JournalRepaired) -> list[str]:
    """What a repair has kept, cut and lost, a clause each."""
    lost = len(repaired.lost)
    lines = [
        f"the damaged journal is kept as {repaired.kept_as}",
        f"{count(lost, 'line')} of it {'is' if lost == 1 else 'are'} lost: {_numbers(repaired)}"
        if lost
        else "no line of it is lost",
    ]
    lines += [f"{trial} runs again; not kept of it: {what}" for trial, what in repaired.cut.items()]
    lines += [
        f"{trial}: {count(number, 'report')} taken from its last checkpoint"
        for trial, number in repaired.recovered.items()
    ]
    return lines


def _numbers(repaired: JournalRepaired) -> str:
    shown = [str(number + 1) for number in repaired.lost[:20]]
    return ", ".join(shown) + (", ..." if len(repaired.lost) > len(shown) else "")
