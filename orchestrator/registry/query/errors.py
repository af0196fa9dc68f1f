"""What is wrong with a query, in messages for people."""

from __future__ import annotations

from orchestrator.system.user_error import UserError


class QueryError(UserError, ValueError):
    """A filter, an order or a choice of columns that cannot be used; the message says why."""
