"""A job in a mailbox, with what was said of it and how many deaths are held against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.executors.messages import Failed, Finished, Message, Ready

if TYPE_CHECKING:
    from orchestrator.executors.job import Job

STRICT_FROM = 2
"""A job that was in the member at so many deaths since its last report is tested up to the next."""
ENDINGS = (Finished, Failed)
"""The messages after which a member says nothing more of a job."""


@dataclass
class Lease:
    """A job that somebody waits for."""

    job: Job
    messages: list[Message] = field(default_factory=list["Message"])
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
        return bool(self.messages) and isinstance(self.messages[-1], ENDINGS)

    @property
    def strict(self) -> bool:
        """Whether its test lasts up to its next report. Before, all others have passed theirs."""
        return self.suspicion >= STRICT_FROM

    def hear(self, message: Message) -> None:
        """Keep a message of the member, and what it says for the job."""
        self.messages.append(message)
        if not isinstance(message, Ready):
            self.suspicion = self.losses = 0
        if not self.strict:
            self.tested = False
