"""Why a sweep does not go on, in messages for the user."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from orchestrator.system.user_error import UserError


class SweepError(UserError, RuntimeError):
    """A sweep that cannot go on; one message for the user."""


class SweepInterruptedError(RuntimeError):
    """The user stopped the sweep; what is finished is kept."""


def is_out_of_room(reason: str) -> bool:
    """Whether a failure came from a full disk or quota."""
    return any(os.strerror(number) in reason for number in (errno.ENOSPC, errno.EDQUOT))


def no_room(folder: Path, what: str, reason: str) -> str:
    """The message for a full disk."""
    return (
        f"Cannot write {what} to {folder}: {reason.rstrip('.')}. Everything that was finished "
        "before is kept. Free some space, then run the same command."
    )
