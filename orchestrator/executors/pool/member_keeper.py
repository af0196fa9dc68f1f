"""Keeping one member of the pool alive, and meeting it at its desk; the driver's side of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.executors.desk import Admission, Heard
from orchestrator.executors.job import MemberConfig
from orchestrator.executors.messages import Todo
from orchestrator.executors.pool.mailbox import Mailbox
from orchestrator.executors.watching.fault import Fault, TellFault
from orchestrator.executors.watching.progress_watch import ProgressWatch
from orchestrator.spec.sections import ResourceSpec
from orchestrator.system.pulse import Pulse


class MemberKeeper:
    """A member's mailbox, and the actor that serves it while the pool is open."""

    def __init__(
        self,
        name: str,
        resources: ResourceSpec,
        storage: str,
        config: Callable[[], MemberConfig],
        avoid: Callable[[], Sequence[str]],
        fault: TellFault,
        note: Callable[[str], None],
    ) -> None:
        """Begin without an actor.

        Args:
            name: Of its runs of Ray Train, if it has several workers.
            resources: What it has.
            storage: Where these runs keep their files.
            config: Gives the `MemberConfig` of a start.
            avoid: Gives the ids of nodes on which it is not placed.
            fault: Told when it has died, or hangs.
            note: Told, in words, when it comes no further for a while.
        """
        self._name, self._resources, self._storage = name, resources, storage
        self._config, self._avoid, self._fault, self._note = config, avoid, fault, note
        self.mailbox = Mailbox(max_failures=resources.max_failures)
        self._starts = 0
        self._actor: Any = None
        self._work: Any = None
        """The future of its `serve`; None while it has no actor."""
        self._visit: Any = None
        """The future of the driver's visit to its desk."""
        self._known = ""
        """The incarnation that was last heard of."""
        self._trouble = ""
        """What its last actor ended with."""
        self._watch = ProgressWatch()
        self._placed = False
        """Whether its workers run."""
        self.node = ""
        """The id of the node that it is on; empty while that is not known, or of several."""

    @property
    def works(self) -> bool:
        """Whether its actor has come so far that it takes trials."""
        return bool(self._known)

    @property
    def ended(self) -> bool:
        """Whether it has no actor."""
        return self._actor is None

    @property
    def pulse(self) -> Pulse:
        """How it stood with its work at its last sign."""
        return self._watch.pulse

    @property
    def unplaced(self) -> bool:
        """Whether it waits for a place on the cluster."""
        return self._actor is not None and not (self._placed or self._known)

    @property
    def futures(self) -> list[Any]:
        """What to wait for: whichever of these is there, `take_in` goes on with."""
        return [future for future in (self._visit, self._work) if future is not None]

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def open(self) -> None:
        """Start it."""
        self.mailbox.reopen()
        self._start()

    def _start(self, *, again: bool = False) -> None:
        """Start an actor, unless the mailbox says that it would die again."""
        from orchestrator.executors.pool import member_actors

        alone, deaths = self._resources.workers == 1, 0
        if alone or again:  # a group asks by itself, whenever Ray Train has started it
            admitted = self._admission().deaths
            if admitted is None:
                return
            deaths = admitted
        self._known, config = "", self._config()
        self._starts += 1
        self._watch, self._placed, self.node = ProgressWatch(), False, ""
        self.mailbox.placed = False
        if alone:
            self._actor = member_actors.lone_member(self._resources, self._avoid())
            self._work = self._actor.serve.remote(config, deaths)
        else:
            self._actor = member_actors.member_group()
            run = {
                "name": f"{self._name}-{self._starts}", "storage_path": self._storage,
                "avoid": list(self._avoid()),
            }  # fmt: skip
            self._work = self._actor.serve.remote(config, self._resources, run)
        self._visit = self._actor.swap.remote(Todo(), "")

    def _admission(self) -> Admission:
        """Whether it may begin, and how often it has died."""
        deaths = self.mailbox.begin()
        if deaths is None and self.mailbox.gone is not None and self._trouble:
            self.mailbox.gone += f"; it ended with: {self._trouble}"
        return Admission(deaths)

    def take_in(self, ready: Sequence[Any]) -> None:
        """Go on, where it has something to say or has ended.

        Args:
            ready: Those of `futures` that are there.
        """
        if self._visit is not None and self._visit in ready:
            self._heard()
        if self._work is not None and self._work in ready:
            self._ended()
        self._look()

    def _look(self) -> None:
        """Let another one take its place where it comes no further."""
        if self._actor is None or self.mailbox.closed:
            return
        why = self._watch.trouble()
        if why is not None:
            self._trouble = why
            self._fault(Fault("member_hung", self._name, why, self.mailbox.inside))
            self.end()
            self._start(again=True)
        elif self._placed and (slow := self._watch.stall()) is not None:
            self._note(f"{self._name}: {slow}")

    def _heard(self) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            found: Any = ray.get(self._visit)
        except RayError:
            # It has died, or cannot be reached: whether it has heard the orders, and what it said,
            # is not known any more. Another one goes on from what is saved.
            ray.kill(self._actor)
            self._visit = None
            return
        heard: Heard = found
        self.mailbox.sign(heard.silent)
        self._watch.hear(heard.pulse, heard.silent)
        self._placed = self._placed or heard.pulse is not None or heard.begins
        self.mailbox.placed, self.node = self._placed or bool(heard.incarnation), heard.node
        admission = self._admission() if heard.begins and not heard.said else None
        todo = Todo(close=self.mailbox.closed)
        if self._known and heard.incarnation not in {"", self._known}:
            # Ray Train has started the workers of a group again.
            why = "Ray Train has started them again"
            self._fault(Fault("workers_died", self._name, why, self.mailbox.inside))
            self._watch = ProgressWatch()
        if heard.incarnation:
            todo = self.mailbox.exchange(heard.incarnation, heard.said, heard.free)
        self._known = heard.incarnation
        self._visit = self._actor.swap.remote(todo, self._known, admission)

    def _ended(self) -> None:
        """Its work is over: it was told to end, cannot work, or has died."""
        import ray
        from ray.exceptions import RayActorError, RayError

        found: Any = None
        died = False
        try:
            found = ray.get(self._work)
        except RayError as error:
            lines = str(error).strip().splitlines()
            self._trouble = found = lines[-1] if lines else repr(error)
            # What Ray Train could not start is not tried for ever; its workers it starts itself.
            died = self._resources.workers == 1 or isinstance(error, RayActorError)
        self.end()
        if self.mailbox.closed:
            return
        if died:
            self._fault(Fault("member_died", self._name, self._trouble, self.mailbox.inside))
            self._start(again=True)
        else:
            self.mailbox.lose(found or "it has ended")

    def end(self) -> None:
        """Let go of its actor."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = self._work = self._visit = None
        self._known = ""
