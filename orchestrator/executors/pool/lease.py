"""A job in a mailbox, with what was said of it and how many deaths are held against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STRICT_FROM = 2
"""A job that was in the member at so many deaths since its last report is tested up to the next."""
ENDINGS = ("finished", "failed")
"""The kinds of messages after which a member says nothing more of a job."""


@dataclass
class Lease:
    """A job that somebody waits for."""

    job: dict[str, Any]
    renewed: float
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    taken: bool = False
    """Whether the member has it."""
    losses: int = 0
    """How many of the member's deaths since it reported something are held against it."""
    suspicion: int = 0
    """At how many deaths it was in the member, since it reported something."""
    tested: bool = False
    """Whether the member has it, and it has yet to show that it is not the reason."""

    @property
    def over(self) -> bool:
        """Whether the member says nothing more of it."""
        return bool(self.messages) and self.messages[-1]["kind"] in ENDINGS

    @property
    def strict(self) -> bool:
        """Whether its test lasts up to its next report. Before, all others have passed theirs."""
        return self.suspicion >= STRICT_FROM

    def hear(self, message: Mapping[str, Any]) -> None:
        """Keep a message of the member, and what it says for the job."""
        self.messages.append(dict(message))
        if message["kind"] != "ready":
            self.suspicion = self.losses = 0
        if not self.strict:
            self.tested = False
