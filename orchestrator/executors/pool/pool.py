"""The executor `pool`, seen from the driver: members that live as long as the sweep needs them.

Each member is an actor (`member_actors`). The driver meets it at its desk, with one call that waits
there until something is said, and keeps the book of it, a mailbox. Nothing else runs: a trial of
the pool has no process of its own.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.executors.job import Job, MemberConfig
from orchestrator.executors.messages import Lost, Message
from orchestrator.executors.pool.followed import Followed
from orchestrator.executors.pool.member_keeper import MemberKeeper
from orchestrator.executors.watching.fault import TellFault
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import ResourceSpec
from orchestrator.system.pulse import Pulse

AHEAD = 1
"""Trials that wait for a slot of each member, so that a slot is refilled at once."""
CLOSE_SECONDS = 60.0
"""How long members may take to end before others take their place: Ray Train's shutdown."""
LEAVE_SECONDS = 5.0
"""The same at the end. Whoever stops a sweep in the middle waits no longer: what members have begun
since their last report is lost either way."""


class Pool:
    """The members of a sweep and their mailboxes."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        shared: list[Any],
        members: int,
        *,
        unfinished: Callable[[], int],
        avoid: Callable[[], Sequence[str]],
        note: Callable[[str], None],
        fault: TellFault,
    ) -> None:
        """Make the mailboxes; members start when they are needed.

        Args:
            experiment: The sweep's.
            folder: The sweep's.
            shared: A list holding the reference of the prepared data.
            members: How many, at least 1.
            unfinished: Gives how many trials the sweep has yet to finish.
            avoid: Gives the ids of nodes on which no member is placed.
            note: Told, in words, what the pool is doing.
            fault: Told of members that have died, or hang.
        """
        self._experiment, self._sweep_folder, self._shared = experiment, folder, shared
        self._unfinished, self._note = unfinished, note
        self._one = experiment.resources
        self._members = [
            MemberKeeper(
                f"member-{number}", self._one, str(self._folder), self._config, avoid, fault, note
            )
            for number in range(members)
        ]
        self._open = False
        self._trials: dict[str, Followed] = {}

    # ------------------------------------------------------------------ what the driver decides by

    @property
    def is_open(self) -> bool:
        """Whether the members have been started."""
        return self._open

    @property
    def places(self) -> int:
        """How many trials may be in it or wait for a slot."""
        return len(self._living()) * (self._one.slots + AHEAD)

    def _living(self) -> list[int]:
        """The members that can take trials; all, where none can, since trials ask one after all."""
        every = range(len(self._members))
        return [n for n in every if self._members[n].mailbox.gone is None] or list(every)

    @property
    def resources(self) -> Sequence[ResourceSpec]:
        """What the members hold while it is open."""
        return [self._one] * len(self._members)

    @property
    def slots(self) -> int:
        """How many trials the members hold that work now."""
        return self._one.slots * sum(member.works for member in self._members)

    @property
    def pulses(self) -> dict[str, Pulse]:
        """By member that works, how it stood with its work at its last sign."""
        return {member.name: member.pulse for member in self._members if member.works}

    def assign(self, trial: str) -> None:
        """Give a trial to the member that has fewest."""
        loads = Counter(followed.place for followed in self._trials.values())
        chosen = min(self._living(), key=lambda number: (loads[number], number))
        self._trials[trial] = Followed(trial, chosen)

    def release(self, trial: str) -> None:
        """A trial has ended, or is not wanted any more: its slot is free at once."""
        if self._trials.pop(trial, None) is not None:
            # It may have gone on in another member than the one that it was given first.
            for member in self._members:
                member.mailbox.release(trial)

    # ---------------------------------------------------------------------- the members' lives

    def open(self) -> None:
        """Start the members."""
        self._finish_closing(CLOSE_SECONDS)
        self._open = True
        count = len(self._members)
        self._note(f"starting {count} member(s) of the pool, {self._one.slots} slots each")
        for member in self._members:
            member.open()

    def _config(self) -> MemberConfig:
        return MemberConfig(
            self._experiment.for_workers(), str(self._sweep_folder), self._shared, self._expected
        )

    @property
    def _expected(self) -> int:
        """How many trials each member is likely to be given at first."""
        search = self._experiment.search
        trials = min(self._experiment.searched_trials, self._unfinished())
        limit = search.max_concurrent if search is not None else None
        share = math.ceil(min(trials, limit or trials) / len(self._members))
        return max(1, min(share, self._one.slots))

    @property
    def _folder(self) -> Path:
        return SweepFolder(self._sweep_folder).members

    def shut(self) -> None:
        """Let the members end; what is in them goes on from its last report, elsewhere or later."""
        self._open = False
        for member in self._members:
            member.mailbox.close()

    def _finish_closing(self, seconds: float) -> None:
        """Wait until members that were told to end have ended."""
        import ray

        for member in self._members:
            if not member.works:  # it has begun nothing
                member.end()
        deadline = time.monotonic() + seconds
        while (futures := self.futures) and time.monotonic() < deadline:
            ready, _ = ray.wait(futures, num_returns=1, timeout=1.0)
            self.take_in(ready)
        for member in self._members:
            member.end()

    def close(self) -> None:
        """End the members."""
        self.shut()
        self._finish_closing(LEAVE_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -------------------------------------------------------------------------- what they say

    @property
    def futures(self) -> list[Any]:
        """What to wait for: whichever of these is there, `take_in` goes on with."""
        return [future for member in self._members for future in member.futures]

    @property
    def unplaced(self) -> list[str]:
        """The members that wait for a place on the cluster."""
        return [member.name for member in self._members if member.unplaced]

    def ask(self, job: Job) -> None:
        """Leave a job that was assigned with its member."""
        followed = self._trials[job.trial]
        followed.job = job
        self._members[followed.place].mailbox.ask(job)

    def take_in(self, ready: Sequence[Any]) -> None:
        """Go on with members that have something to say, or have ended.

        Args:
            ready: Those of `futures` that are there.
        """
        for member in self._members:
            member.take_in(ready)

    def news(self) -> Iterator[tuple[str, Message]]:
        """What is said of trials, each word once; who loses its member goes to another."""
        mailboxes = [member.mailbox for member in self._members]
        for followed in list(self._trials.values()):
            if followed.job is None:
                continue
            lost = followed.move(mailboxes)
            for message in followed.told(mailboxes[followed.place]):
                yield followed.trial, message
            if lost is not None:
                yield followed.trial, Lost(lost)
