"""Journals for tests: any line, as any version might have written it."""

from orchestrator.records.events import UnknownEvent


def say(journal, event, /, **fields):
    """Write a line that holds just this, which need not be whole; gives the line."""
    return journal.append(UnknownEvent(event, fields)).to_line()
