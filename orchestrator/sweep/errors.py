"""Why a sweep does not go on, in messages for the user."""

from __future__ import annotations

from pathlib import Path

from orchestrator.system.durable import remedy
from orchestrator.system.stores.errors import UNANSWERED
from orchestrator.system.user_error import UserError


class SweepError(UserError, RuntimeError):
    """A sweep that cannot go on; one message for the user."""


class SweepInterruptedError(RuntimeError):
    """The user stopped the sweep; what is finished is kept."""


def disk_refuses(reason: str) -> bool:
    """Whether a failure came from a disk that is full or cannot be written, or a store away."""
    return UNANSWERED in reason or remedy(reason) is not None


def not_written(folder: Path, what: str, reason: str) -> str:
    """The message for a disk that refuses, or a store that did not answer."""
    if UNANSWERED in reason:
        return f"Cannot write {what}: {reason}"
    return (
        f"Cannot write {what} to {folder}: {reason.rstrip('.')}. Everything that was finished "
        "before is kept. "
        f"{remedy(reason) or 'Free some space'}, then run the same command."
    )
