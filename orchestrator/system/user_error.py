"""Errors whose message is written for the user."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can fix; the message says what, and commands print it alone."""


class UsageError(UserError, ValueError):
    """A command that cannot be carried out as it was given; the message says why."""
