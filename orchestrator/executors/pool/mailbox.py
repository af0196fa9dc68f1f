"""Between the trials of a pool and one of its members: who wants a slot, and what is said of it.

One `Mailbox` belongs to each member, as an actor without a CPU of its own. Trials leave a job and
read what is said of it; the member takes jobs and leaves messages; the driver says which jobs
nobody wants any more. A job is a *lease*: it lives as long as its trial's process does, which
renews it also while the trial itself waits for the driver. Whatever the
member said is kept until the trial has gone, so that neither a trial that asks late nor a member
that starts anew loses a word. Nothing here knows of Ray, torch or methods.

When a member dies, any of its jobs may be the reason, or none (a node was taken back). So its jobs
are put to the *test*: it is given them again one by one, each once the one before has lived through
a step, or after a second death without a report between, until it has reported something. A death
is held against a job only if that was alone, or under such a second test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator.executors.messages import Failed, Message, News, Ready, Todo
from orchestrator.executors.pool.lease import Lease

if TYPE_CHECKING:
    from orchestrator.executors.job import Job

LEASE_SECONDS = 60.0
"""A job whose trial's process has not been heard of for so long is dropped."""
RENEW_SECONDS = 10.0
"""How often it is heard of, whatever the trial itself does: a report waits for the driver, and that
may wait for minutes for a slow MLflow server."""
ABSENT_SECONDS = 90.0
"""A member that has given no sign of life for so long is passed over where another one is there:
its node may have been lost, and may not come back. It gives one every few seconds, and needs some
tens to start anew."""
START_SECONDS = 600.0
"""The same for a member that has yet to be placed and to start."""
FRUITLESS_STARTS = 3
"""A member that died so often before it took anything would do so again: loading takes a while."""


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
        self._generation = 0
        self._closed = False
        self._gone: str | None = None
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
            self._leases[job.trial] = Lease(job, self._clock())
        else:
            lease.renewed = self._clock()

    def poll(self, trial: str, seen: int) -> News:
        """Ask for news, which renews the lease.

        Args:
            trial: Of which job.
            seen: How many messages were read before.

        Returns:
            The news; of a job that is not here, those of the member alone.
        """
        lease = self._leases.get(trial)
        if lease is None:
            return News(gone=self._gone, absent=self._absent())
        lease.renewed = self._clock()
        # One that may have killed the member is tested here.
        serves = self._room is not None
        waits = serves and not lease.taken and not lease.over and lease.suspicion == 0
        return News(
            tuple(lease.messages[seen:]),
            gone=self._gone,
            absent=self._absent(),
            waits=waits,
            known=True,
        )

    def renew(self, trial: str) -> None:
        """The trial's process is there, whatever it waits for.

        Args:
            trial: Of which job; one that is not here is passed over.
        """
        if trial in self._leases:
            self._leases[trial].renewed = self._clock()

    def present(self) -> bool:
        """Say whether the member takes jobs, or can be expected to do so soon."""
        return not self._closed and self._gone is None and not self._absent()

    def room(self) -> int:
        """Say how many more jobs the member could begin now."""
        return self._room or 0 if self.present() else 0

    def _absent(self) -> bool:
        return not self._closed and self._clock() - self._alive > self._patience

    def _sign(self) -> None:
        self._alive, self._patience = self._clock(), ABSENT_SECONDS

    # ------------------------------------------------------------------------------- the driver

    def release(self, trial: str) -> None:
        """Nobody wants this job any more."""
        lease = self._leases.pop(trial, None)
        if lease is not None and lease.taken and not lease.over:
            self._dropped.append(trial)

    def close(self) -> None:
        """Let the member end, whatever it has."""
        self._closed = True

    def reopen(self, generation: int) -> None:
        """Let another member serve this mailbox.

        Args:
            generation: Its number; any other that should still be there is told to end.
        """
        self._closed, self._gone, self._starts = False, None, 0
        self._generation, self._alive = generation, self._clock()
        self._patience, self._room = START_SECONDS, None

    def lose(self, reason: str) -> None:
        """The member is gone for good.

        Args:
            reason: In one line; the first that is given stands.
        """
        self._gone = self._gone or reason

    # ------------------------------------------------------------------------------- the member

    def begin(self, generation: int = 0) -> int | None:
        """The member's process has started and is about to load its base.

        Args:
            generation: The one that it was started in.

        Returns:
            None if it should not, because another generation serves this mailbox or because it has
            died too often before its first exchange; else how often in a row it died with jobs in
            it and nothing reported in between. Memory is the usual reason, and smaller passes need
            less.
        """
        if generation != self._generation:
            return None
        if self._starts >= FRUITLESS_STARTS:
            self.lose(
                f"its process died {self._starts} times before it had loaded the base; the logs of "
                "Ray's workers say why (memory is the usual reason)"
            )
            return None
        self._starts += 1
        self._sign()
        self._room = None
        return self._deaths

    def beat(self, generation: int = 0) -> None:
        """The member's process is there, however long a pass may take.

        Args:
            generation: The one that it was started in.
        """
        if generation == self._generation:
            self._sign()

    def exchange(
        self,
        incarnation: str,
        said: Sequence[tuple[str, Message]],
        free: int,
        generation: int = 0,
    ) -> Todo:
        """Hand over messages, and be told what to do.

        Args:
            incarnation: Another one for each start of the member.
            said: Trial and message, in order.
            free: How many more jobs the member can take.
            generation: The one that it was started in.

        Returns:
            What the member is to do.
        """
        if generation != self._generation:  # it was closed, and needed long to ask
            return Todo(close=True)
        self._starts = 0
        self._sign()
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
        now = self._clock()
        for trial, lease in list(self._leases.items()):
            if now - lease.renewed > LEASE_SECONDS:
                self.release(trial)
        # What the member said before it was told to forget a job is of no use any more.
        drop, self._dropped = self._dropped, []
        join = [] if self._closed else self._hand_out(free)
        waiting = any(not lease.taken and not lease.over for lease in self._leases.values())
        self._room = 0 if waiting else free - len(join)
        return Todo(tuple(join), tuple(drop), self._closed)

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
