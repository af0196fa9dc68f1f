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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.executors.cluster_fit import HEAD_RESOURCE, HEAD_SHARE
from orchestrator.executors.desk import Admission, Heard
from orchestrator.executors.job import Job
from orchestrator.executors.messages import Lost, Message, Todo
from orchestrator.executors.pool.followed import Followed
from orchestrator.executors.pool.mailbox import Mailbox
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import ResourceSpec

AHEAD = 1
"""Trials that wait for a slot of each member, so that a slot is refilled at once."""
CLOSE_SECONDS = 60.0
"""How long members may take to end: a tick, and Ray Train's shutdown."""


@dataclass
class _Place:
    """A member's mailbox, and the actor that serves it while the pool is open."""

    number: int
    mailbox: Mailbox
    actor: Any = None
    work: Any = None
    """The future of its `serve`; None while it has no actor."""
    visit: Any = None
    """The future of the driver's visit to its desk."""
    known: str = ""
    """The incarnation that was last heard of."""
    trouble: str = ""
    """What its last actor ended with."""


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
        """
        self._experiment, self._sweep_folder, self._shared = experiment, folder, shared
        self._unfinished, self._avoid, self._note = unfinished, avoid, note
        self._one = experiment.resources
        self._places = [
            _Place(number, Mailbox(max_failures=self._one.max_failures))
            for number in range(members)
        ]
        self._starts = 0
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
        living = [each.number for each in self._places if each.mailbox.gone is None]
        return living or list(range(len(self._places)))

    @property
    def resources(self) -> Sequence[ResourceSpec]:
        """What the members hold while it is open."""
        return [self._one] * len(self._places)

    def assign(self, trial: str) -> int:
        """Choose the member that has fewest trials.

        Args:
            trial: Its name.

        Returns:
            The member's number.
        """
        loads = Counter(followed.place for followed in self._trials.values())
        chosen = min(self._living(), key=lambda number: (loads[number], number))
        self._trials[trial] = Followed(trial, chosen)
        return chosen

    def release(self, trial: str) -> None:
        """A trial has ended, or is not wanted any more: its slot is free at once."""
        if self._trials.pop(trial, None) is not None:
            # It may have gone on in another member than the one that it was given first.
            for each in self._places:
                each.mailbox.release(trial)

    # ---------------------------------------------------------------------- the members' lives

    def open(self) -> None:
        """Start the members."""
        self._finish_closing()
        self._starts += 1
        self._open = True
        count = len(self._places)
        self._note(f"starting {count} member(s) of the pool, {self._one.slots} slots each")
        for place in self._places:
            place.mailbox.reopen()
            self._start(place)

    def _start(self, place: _Place, *, again: bool = False) -> None:
        """Start a member's actor, unless its mailbox says that it would die again."""
        from orchestrator.executors.pool import member_actors

        alone, deaths = self._one.workers == 1, 0
        if alone or again:  # a group asks by itself, whenever Ray Train has started it
            admitted = self._admission(place).deaths
            if admitted is None:
                return
            deaths = admitted
        place.known, config = "", self._config()
        if alone:
            place.actor = member_actors.lone_member(self._one, self._avoid())
            place.work = place.actor.serve.remote(config, deaths)
        else:
            place.actor = member_actors.member_group({HEAD_RESOURCE: HEAD_SHARE})
            run = {
                "name": f"member-{place.number}-{self._starts}",
                "storage_path": str(self._folder), "avoid": list(self._avoid()),
            }  # fmt: skip
            place.work = place.actor.serve.remote(config, self._one, run)
        place.visit = place.actor.swap.remote(Todo(), "")

    @staticmethod
    def _admission(place: _Place) -> Admission:
        """Whether a member may begin, and how often it has died."""
        deaths = place.mailbox.begin()
        if deaths is None and place.mailbox.gone is not None and place.trouble:
            place.mailbox.gone += f"; it ended with: {place.trouble}"
        return Admission(deaths)

    def _config(self) -> Any:
        from orchestrator.executors.pool.member_config import MemberConfig

        return MemberConfig(
            self._experiment.for_workers(), str(self._sweep_folder), self._shared, self._expected
        )

    @property
    def _expected(self) -> int:
        """How many trials each member is likely to be given at first."""
        search = self._experiment.search
        trials = min(self._experiment.searched_trials, self._unfinished())
        limit = search.max_concurrent if search is not None else None
        share = math.ceil(min(trials, limit or trials) / len(self._places))
        return max(1, min(share, self._one.slots))

    @property
    def _folder(self) -> Path:
        return SweepFolder(self._sweep_folder).members

    def shut(self) -> None:
        """Let the members end; what is in them goes on from its last report, elsewhere or later."""
        self._open = False
        for place in self._places:
            place.mailbox.close()

    def _finish_closing(self) -> None:
        """Wait until members that were told to end have ended."""
        import ray

        for place in self._places:
            if not place.known:  # it has begun nothing
                _end(place)
        deadline = time.monotonic() + CLOSE_SECONDS
        while (futures := self.futures) and time.monotonic() < deadline:
            ready, _ = ray.wait(futures, num_returns=1, timeout=1.0)
            self.take_in(ready)
        for place in self._places:
            _end(place)

    def close(self) -> None:
        """End the members."""
        self.shut()
        self._finish_closing()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -------------------------------------------------------------------------- what they say

    @property
    def futures(self) -> list[Any]:
        """What to wait for: whichever of these is there, `take_in` goes on with."""
        return [f for place in self._places for f in (place.visit, place.work) if f is not None]

    def ask(self, job: Job) -> None:
        """Leave a job that was assigned with its member."""
        followed = self._trials[job.trial]
        followed.job = job
        self._places[followed.place].mailbox.ask(job)

    def take_in(self, ready: Sequence[Any]) -> None:
        """Go on with members that have something to say, or have ended.

        Args:
            ready: Those of `futures` that are there.
        """
        for place in self._places:
            if place.visit is not None and place.visit in ready:
                self._heard(place)
            if place.work is not None and place.work in ready:
                self._ended(place)

    def _heard(self, place: _Place) -> None:
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        try:
            heard: Heard = ray.get(place.visit)
        except ActorUnavailableError:  # a passing trouble
            place.visit = place.actor.swap.remote(Todo(), "")
            return
        except RayError:  # it has died, which its work tells, too
            place.visit = None
            return
        mailbox = place.mailbox
        mailbox.sign(heard.silent)
        admission = self._admission(place) if heard.begins and not heard.said else None
        todo = Todo(close=mailbox.closed)
        if heard.incarnation:
            todo = mailbox.exchange(heard.incarnation, heard.said, heard.free)
        place.known = heard.incarnation
        place.visit = place.actor.swap.remote(todo, place.known, admission)

    def _ended(self, place: _Place) -> None:
        """A member's work is over: it was told to, cannot work, or has died."""
        import ray
        from ray.exceptions import RayActorError, RayError

        lost, died = None, False
        try:
            lost = ray.get(place.work)
        except RayError as error:
            lines = str(error).strip().splitlines()
            place.trouble = lost = lines[-1] if lines else repr(error)
            # What Ray Train could not start is not tried for ever; its workers it starts itself.
            died = self._one.workers == 1 or isinstance(error, RayActorError)
        _end(place)
        if place.mailbox.closed:
            return
        if died:
            self._start(place, again=True)
        else:
            place.mailbox.lose(lost or "it has ended")

    def news(self) -> Iterator[tuple[str, Message]]:
        """What is said of trials, each word once; who loses its member goes to another."""
        for followed in list(self._trials.values()):
            if followed.job is None:
                continue
            lost = followed.move([each.mailbox for each in self._places])
            for message in followed.told(self._places[followed.place].mailbox):
                yield followed.trial, message
            if lost is not None:
                yield followed.trial, Lost(lost)


def _end(place: _Place) -> None:
    """Let go of a member's actor."""
    import ray

    if place.actor is not None:
        ray.kill(place.actor)
    place.actor = place.work = place.visit = None
