"""What one member of the pool has to do, and what it has said: the driver's book of it.

The driver keeps a `Mailbox` of each member: it leaves jobs there, reads what is said of them, and
exchanges both with the member over its desk (`executors/desk.py`). Whatever the member said is kept
until the trial has gone, so that a member that starts anew loses no word. Nothing here knows of
Ray, torch or methods.

When a member dies, any of its jobs may be the reason, or none (a node was taken back). So its jobs
are put to the *test*: it is given them again one by one, each once the one before has lived through
a step, or after a second death without a report between, until it has reported something. A death
is held against a job only if that was alone, or under such a second test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.executors.messages import Failed, Finished, Message, News, Paused, Ready, Todo

if TYPE_CHECKING:
    from orchestrator.executors.job import Job

ABSENT_SECONDS = 90.0
"""A member that has given no sign of life for so long is passed over where another one is there:
its node may have been lost, and may not come back. It gives one every few seconds, and needs some
tens to start anew."""
START_SECONDS = 600.0
"""The same for a member that has yet to be placed and to start."""
FRUITLESS_STARTS = 3
"""A member that died so often before it took anything would do so again: loading takes a while."""


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
        return bool(self.messages) and isinstance(self.messages[-1], (*ENDINGS, Paused))

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


class Mailbox:
    """The jobs of one member, and what it says of them."""

    def __init__(
        self, *, max_failures: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin empty.

        Args:
            max_failures: A job against which more of the member's deaths than this are held, with
                no report between them, has failed.
            clock: Seconds.
        """
        self._max_failures = max_failures
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._dropped: list[str] = []
        self._incarnation: str | None = None
        self._starts = 0
        self._deaths = 0
        """Of the member with jobs in it, one after the other without a report between."""
        self._closed = False
        self.news = False
        """Whether the member has said something, or is gone, since this was last set to False."""
        self.placed = True
        """Whether the member has its place on the cluster."""
        self.leaving = False
        """Whether the member is given no more jobs."""
        self.saves = False
        """Whether it is to save those that it has, for others to go on with them."""
        self.gone: str | None = None
        """Why nothing more will come of this member."""
        self._alive = clock()
        """When the member last gave a sign of life, or was told to start."""
        self._patience = START_SECONDS
        """How long it may give none."""
        self._room: int | None = None
        """How many more jobs it can take for which nobody waits here; None while it starts."""

    # ------------------------------------------------------------------------------- trials

    def ask(self, job: Job) -> None:
        """Leave a job, or take up one that is still here.

        Args:
            job: The trial's; nothing but its name is read here.
        """
        lease = self._leases.get(job.trial)
        if lease is None or lease.over:
            self._leases[job.trial] = Lease(job)

    def poll(self, trial: str, seen: int) -> News:
        """Ask for news.

        Args:
            trial: Of which job.
            seen: How many messages were read before.

        Returns:
            The news; of a job that is not here, those of the member alone.
        """
        lease = self._leases.get(trial)
        if lease is None:
            return News(gone=self.gone, absent=self._absent())
        # One that may have killed the member is tested here.
        serves = self._room is not None or not self.placed
        waits = serves and not lease.taken and not lease.over and lease.suspicion == 0
        return News(
            tuple(lease.messages[seen:]), gone=self.gone, absent=self._absent(), waits=waits
        )

    @property
    def inside(self) -> list[str]:
        """The trials that the member has."""
        return [name for name, each in self._leases.items() if each.taken and not each.over]

    def present(self) -> bool:
        """Say whether the member takes jobs, or can be expected to do so soon."""
        usable = not self._closed and not self.leaving and self.gone is None
        return usable and not self._absent()

    def room(self) -> int:
        """Say how many more jobs the member could begin now."""
        return self._room or 0 if self.present() else 0

    def _absent(self) -> bool:
        return not self._closed and self._clock() - self._alive > self._patience

    # ------------------------------------------------------------------------------- the driver

    def release(self, trial: str) -> None:
        """Nobody wants this job any more."""
        lease = self._leases.pop(trial, None)
        if lease is not None and lease.taken and not lease.over:
            self._dropped.append(trial)

    def close(self) -> None:
        """Let the member end, whatever it has."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether the member is to end."""
        return self._closed

    def reopen(self) -> None:
        """Let another member serve this mailbox; the jobs of the one before are nobody's fault."""
        for lease in self._leases.values():
            lease.taken = lease.tested = False
        self._dropped = []
        self._closed, self.gone, self._starts, self._incarnation = False, None, 0, None
        self.leaving = self.saves = False
        self._alive, self._patience, self._room = self._clock(), START_SECONDS, None

    def lose(self, reason: str) -> None:
        """The member is gone for good.

        Args:
            reason: In one line; the first that is given stands.
        """
        self.gone, self.news = self.gone or reason, True

    # ------------------------------------------------------------------------------- the member

    def begin(self) -> int | None:
        """The member is started, or its process has been started anew.

        Returns:
            None if it should not, because it has died too often before its first exchange; else
            how often in a row it died with jobs in it and nothing reported in between. Memory is
            the usual reason, and smaller passes need less.
        """
        if self._closed:
            return None
        if self._starts >= FRUITLESS_STARTS:
            self.lose(
                f"its process died {self._starts} times before it had loaded the base; the logs of "
                "Ray's workers say why (memory is the usual reason)"
            )
            return None
        self._starts += 1
        self._room = None
        return self._deaths

    def sign(self, silent: float = 0.0) -> None:
        """The member's process is there, however long a pass may take.

        Args:
            silent: Seconds since it was heard of.
        """
        alive = self._clock() - silent
        if alive >= self._alive:
            self._alive, self._patience = alive, ABSENT_SECONDS

    def exchange(self, incarnation: str, said: Sequence[tuple[str, Message]], free: int) -> Todo:
        """Take in messages, and say what the member is to do.

        Args:
            incarnation: Another one for each start of the member.
            said: Trial and message, in order.
            free: How many more jobs the member can take.

        Returns:
            What the member is to do.
        """
        self._starts = 0
        # A member that has started again may fail a job, without a word of its own.
        self.news = self.news or bool(said) or incarnation != self._incarnation
        if incarnation != self._incarnation:
            if self._incarnation is not None:
                self._take_back()
            self._incarnation = incarnation
        for trial, message in said:
            lease = self._leases.get(trial)
            if lease is not None and lease.taken:
                lease.hear(message)
                if not isinstance(message, Ready):
                    self._deaths = 0
        # What the member said before it was told to forget a job is of no use any more.
        drop, self._dropped = self._dropped, []
        # The driver starts all that may start before it listens. Once it has let go of what the
        # member had, nothing comes that does not wait for a trial elsewhere, or for these.
        all_there = not any(lease.taken for lease in self._leases.values())
        join = [] if self._closed or self.leaving else self._hand_out(free)
        waiting = any(not lease.taken and not lease.over for lease in self._leases.values())
        self._room = 0 if waiting else free - len(join)
        return Todo(tuple(join), tuple(drop), self._closed, all_there and bool(join), self.saves)

    def _hand_out(self, free: int) -> list[Job]:
        join: list[Job] = []
        inside = [lease for lease in self._leases.values() if lease.taken and not lease.over]
        for lease in self._leases.values():
            if len(join) >= free or any(other.tested for other in inside):
                break
            if lease.taken or lease.over:
                continue
            lease.taken, lease.tested = True, lease.suspicion > 0
            inside.append(lease)
            join.append(lease.job)
        return join

    def _take_back(self) -> None:
        """The member has started anew and has nothing; its jobs go on from their snapshots."""
        self._dropped = []
        lost = [lease for lease in self._leases.values() if lease.taken and not lease.over]
        self._deaths += bool(lost)
        blamed = [lease for lease in lost if len(lost) == 1 or (lease.tested and lease.strict)]
        for lease in lost:
            lease.taken = lease.tested = False
            lease.suspicion += not blamed or lease in blamed
        for lease in blamed:
            lease.losses += 1
            if lease.losses > self._max_failures:
                reason = f"the member's process died {lease.losses} times while it held this trial"
                lease.messages.append(Failed(reason))
