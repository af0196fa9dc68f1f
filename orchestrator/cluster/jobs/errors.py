"""What goes wrong with jobs."""

from __future__ import annotations

from orchestrator.system.user_error import UserError


class JobError(UserError, RuntimeError):
    """A job that cannot be submitted, found or fetched; the message says why and what to do."""
