"""What is wrong with a base model: its files, or loading it."""

from __future__ import annotations

from orchestrator.system.user_error import UserError


class BaseFilesError(UserError, ValueError):
    """Files of a base model that cannot be used; the message says why and what to do."""


COPY_AGAIN = "Copy or download it again."


class ModelError(UserError, ValueError):
    """A base model that cannot be used; the message says why and what to do."""
