"""What goes wrong with a store."""

from __future__ import annotations

from orchestrator.system.user_error import UserError

UNANSWERED = "Once it answers, the same command goes on."
"""Ends the message of a store that did not do what it was asked; nobody's trial is to blame."""


class StoreError(UserError, OSError):
    """A store that does not answer, refuses, or cannot keep what a sweep needs of it.

    It is an `OSError` as well: who can go on, or stop in order, where a disk refuses does the same.
    """


class HeldError(StoreError):
    """Another process writes what only one may write."""


class OvertakenError(StoreError):
    """Another writer has taken the place of this one."""
