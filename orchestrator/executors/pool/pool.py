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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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
LOOK_SECONDS = 0.5
"""How often all trials are looked at, whether or not their members have said anything."""
FIT_SECONDS = 2.0
"""How often it is looked at whether there are to be more members, or fewer."""
IDLE_SECONDS = 20.0
"""How long a member that is too much is without trials before it ends: others may come."""
LEAVE_SECONDS = 5.0
"""The same at the end. Whoever stops a sweep in the middle waits no longer: what members have begun
since their last report is lost either way."""


class Places(Protocol):
    """Who knows the cluster."""

    def members(self) -> int:
        """How many members there are to be now, at least 1."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether there are fewer because of other sweeps."""
        ...

    @property
    def draining(self) -> Mapping[str, float]:
        """The nodes that are about to be taken away, by id: when, in seconds since the epoch."""
        ...


class Pool:
    """The members of a sweep and their mailboxes."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        shared: list[Any],
        places: Places,
        *,
        unfinished: Callable[[], int],
        avoid: Callable[[], Sequence[str]],
        note: Callable[[str], None],
        fault: TellFault,
    ) -> None:
        """Begin without members; they start when they are needed.

        Args:
            experiment: The sweep's.
            folder: The sweep's.
            shared: A list holding the reference of the prepared data.
            places: Says how many members there are to be.
            unfinished: Gives how many trials the sweep has yet to finish.
            avoid: Gives the ids of nodes on which no member is placed.
            note: Told, in words, what the pool is doing.
            fault: Told of members that have died, or hang.
        """
        self._experiment, self._sweep_folder, self._shared = experiment, folder, shared
        self._unfinished, self._note = unfinished, note
        self._one = experiment.resources
        self._places, self._avoid, self._fault = places, avoid, fault
        self._members: list[MemberKeeper] = []
        self._rest: set[int] = set()
        """Those that have ended, or were told to, because there was nothing for them."""
        self._leaving: set[int] = set()
        """Those that are given no trials any more, and end with the last that they have."""
        self._moving: set[int] = set()
        """Those of them whose node is about to be taken away."""
        self._idle: dict[int, float] = {}
        """Since when a member that works has had no trial."""
        self._due = self._look_due = 0.0
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
        members = len(self._living()) if self._open else self._places.members()
        return members * (self._one.slots + AHEAD)

    def _living(self) -> list[int]:
        """The members that can take trials; all, where none can, since trials ask one after all."""
        held = self._held()
        alive = [n for n in held if self._members[n].mailbox.gone is None]
        stay = [n for n in alive if n not in self._leaving]
        # No trial waits for a node to come while another member has its place.
        placed = [n for n in stay if not self._members[n].unplaced]
        return placed or stay or alive or held

    def _held(self) -> list[int]:
        """The members that hold a part of the cluster, or ask for one."""
        return [number for number in range(len(self._members)) if number not in self._rest]

    @property
    def resources(self) -> Sequence[ResourceSpec]:
        """What the members hold while it is open."""
        return [self._one] * (len(self._held()) if self._open else self._places.members())

    @property
    def slots(self) -> int:
        """How many trials the members hold that work now."""
        return self._one.slots * sum(member.works for member in self._members)

    @property
    def placed(self) -> int:
        """How many members have their place on the cluster."""
        return sum(not member.ended and not member.unplaced for member in self._members)

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
        self._rest, self._leaving = set(range(len(self._members))), set()
        self._moving = set()
        count = self._places.members()
        self._note(f"starting {count} member(s) of the pool, {self._one.slots} slots each")
        self._start(count)

    def _start(self, count: int) -> None:
        """Let so many more members start: those that rest, then new ones."""
        resting = [number for number in sorted(self._rest) if self._members[number].ended]
        for _ in range(count - len(resting)):
            resting.append(len(self._members))
            name = f"member-{len(self._members)}"
            self._members.append(
                MemberKeeper(
                    name,
                    self._one,
                    str(self._folder),
                    self._config,
                    self._avoid,
                    self._fault,
                    self._note,
                )
            )
            self._rest.add(resting[-1])
        self._rest -= {*resting[:count]}  # how many there are, each is told
        for number in resting[:count]:
            self._members[number].open()

    def fit(self) -> None:
        """Let members start or end, where there are to be more or fewer of them now."""
        now = time.monotonic()
        if not self._open or now < self._due:
            return
        self._due = now + FIT_SECONDS
        self._move_away()
        loads = Counter(followed.place for followed in self._trials.values())
        idle = [n for n in self._held() if not loads[n]]
        self._idle = {number: self._idle.get(number, now) for number in idle}
        staying = [number for number in self._held() if number not in self._leaving]
        more = self._places.members() - len(staying)
        if more > 0:
            self._add(more)
        elif more < 0:
            self._lessen(-more, staying, loads, now)
        for number in [n for n in self._leaving if not loads[n]]:
            crowded = "its place is another sweep's" if self._places.crowded else ""
            moved = "its node is taken away" if number in self._moving else ""
            self._give_back(number, moved or crowded or "the cluster has no place for it any more")

    def _move_away(self) -> None:
        """Have members save their trials whose nodes are about to be taken away."""
        for number in [n for n in self._held() if n not in self._moving]:
            member = self._members[number]
            if member.node not in self._places.draining:
                continue
            until = self._places.draining[member.node]
            left = f" in {max(0.0, until - time.time()):.0f} s" if until else ""
            self._note(
                f"the node of {member.name} is to be taken away{left}: its trials are saved and go "
                "on elsewhere"
            )
            self._leaving.add(number)
            self._moving.add(number)
            member.mailbox.leaving = member.mailbox.saves = True

    def _add(self, more: int) -> None:
        stay = sorted(self._leaving - self._moving)[:more]
        for number in stay:
            self._leaving.discard(number)
            self._members[number].mailbox.leaving = False
        if more > len(stay):
            self._note(f"starting {more - len(stay)} more member(s) of the pool")
            self._start(more - len(stay))

    def _lessen(
        self, surplus: int, staying: list[int], loads: Mapping[int, int], now: float
    ) -> None:
        """Let as many members end as are too many: first those that wait, then the idle ones."""
        late = now - IDLE_SECONDS
        waiting = [n for n in staying if self._members[n].unplaced and not loads[n]]
        idle = [n for n in staying if n not in waiting and self._idle.get(n, now) <= late]
        for number in [*waiting, *idle][:surplus]:
            self._give_back(number, "too few trials are left for it")
        # Where even members with trials are too many, places are another sweep's, or have gone.
        # Whoever has lost its place with the node goes first, not those that work.
        busy = sorted(
            (n for n in staying if loads[n]),
            key=lambda n: (not self._members[n].unplaced, loads[n], -n),
        )
        for number in busy[: max(0, surplus - (len(staying) - len(busy)))]:
            self._leaving.add(number)
            self._members[number].mailbox.leaving = True

    def _give_back(self, number: int, why: str) -> None:
        """Let a member without trials end, so that its node is free."""
        member = self._members[number]
        self._rest.add(number)
        self._leaving.discard(number)
        self._moving.discard(number)
        self._note(f"{member.name} ends: {why}")
        member.mailbox.close()
        if not member.works:  # it has begun nothing
            member.end()

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
        share = math.ceil(min(trials, limit or trials) / max(1, len(self._held())))
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
        """What is said of trials, each word once; who loses its member goes to another.

        Yields:
            Trial and message. All trials are looked at now and then, for who waits; in between,
            those alone whose member has said something: there may be thousands.
        """
        mailboxes, now = [member.mailbox for member in self._members], time.monotonic()
        heard = {number for number, mailbox in enumerate(mailboxes) if mailbox.news}
        every = now >= self._look_due
        if every:
            self._look_due = now + LOOK_SECONDS
        for followed in list(self._trials.values()):
            if followed.job is None or not (every or followed.place in heard):
                continue
            mailboxes[followed.place].news = False
            lost = followed.move(mailboxes)
            for message in followed.told(mailboxes[followed.place]):
                yield followed.trial, message
            if lost is not None:
                yield followed.trial, Lost(lost)
