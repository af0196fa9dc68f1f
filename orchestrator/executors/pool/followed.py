"""A trial of the pool, followed from member to member: what is said of it, each word once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Message, Paused, Reported
from orchestrator.executors.pool.mailbox import Mailbox

PATIENCE_SECONDS = 9.0
"""How long a trial waits for a slot of its own member before it looks at the others."""


class Followed:
    """A trial, and which member has it."""

    def __init__(
        self, trial: str, place: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without a job.

        Args:
            trial: Its name.
            place: The member that it is given to first.
            clock: Seconds.
        """
        self.trial, self.place = trial, place
        self.job: Job | None = None
        self._clock = clock
        self._seen = 0
        """Messages of this place's mailbox that were read."""
        self._told: set[tuple[int, float]] = set()
        self._gone: dict[int, str] = {}
        """Members that will say nothing more, and why."""
        self._waits_since: float | None = None
        self._paused = False
        """Whether its member has let go of it."""

    def told(self, mailbox: Mailbox) -> Iterator[Message]:
        """What was said since this was last asked.

        Args:
            mailbox: That of its place.

        Yields:
            Messages; a stage that was told before is left out, since a resumed job repeats it.
        """
        messages = mailbox.poll(self.trial, self._seen).messages
        self._seen += len(messages)
        for message in messages:
            if isinstance(message, Paused):
                self._paused = True
                continue
            if isinstance(message, Reported):
                if message.report.stage in self._told:
                    continue
                self._told.add(message.report.stage)
            yield message

    def move(self, mailboxes: Sequence[Mailbox]) -> str | None:
        """Go to another member where this one is gone or late, or has no room and another has.

        Args:
            mailboxes: Of all members.

        Returns:
            Why no member is left, where none is.
        """
        here = mailboxes[self.place]
        news = here.poll(self.trial, self._seen)
        if news.messages:  # first what there is to hear
            return None
        if news.gone is not None:
            self._gone[self.place] = news.gone
            turns = [(self.place + n) % len(mailboxes) for n in range(1, len(mailboxes))]
            closed = {number for number in turns if mailboxes[number].closed}
            left = [number for number in turns if number not in {*self._gone, *closed}]
            if not left:
                return "; ".join(f"member {number}: {why}" for number, why in self._gone.items())
            self._go(left[0], mailboxes)
            return None
        now = self._clock()
        if not news.waits:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        other = None
        if self._paused:
            other = self._first(mailboxes, Mailbox.room)
            other = self._first(mailboxes, Mailbox.present) if other is None else other
        elif news.absent:
            other = self._first(mailboxes, Mailbox.present)
        elif self._waits_since is not None and now - self._waits_since > PATIENCE_SECONDS:
            other = self._first(mailboxes, Mailbox.room)
        if other is not None:
            # Should the member be only late, it is told to forget the job.
            here.release(self.trial)
            self._go(other, mailboxes)
        return None

    def _first(
        self, mailboxes: Sequence[Mailbox], question: Callable[[Mailbox], object]
    ) -> int | None:
        """The first other member that is not gone and of which something holds."""
        for number, mailbox in enumerate(mailboxes):
            if number not in {self.place, *self._gone} and question(mailbox):
                return number
        return None

    def _go(self, place: int, mailboxes: Sequence[Mailbox]) -> None:
        assert self.job is not None, "only what has been asked for can go elsewhere"
        self.place, self._seen, self._waits_since, self._paused = place, 0, None, False
        mailboxes[place].ask(self.job)
