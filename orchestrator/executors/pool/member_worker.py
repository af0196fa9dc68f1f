"""A member of the pool: Ray Train workers that serve a mailbox until it is closed.

It has one worker where the base fits onto a device. Several shard the rows of each pass across
them, and with ZeRO stage 3 the base, too; the first one talks to the mailbox, decides what depends
on time, memory or files, and broadcasts it.

It lives as long as the sweep. Between ticks it exchanges messages with its mailbox: which trials to
begin, which to forget, what was measured.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import ModelError
from orchestrator.data.prepared import PreparedData
from orchestrator.engines.workers import ALONE, Workers, WorkersError
from orchestrator.executors.job import Job
from orchestrator.executors.messages import Message, Todo
from orchestrator.executors.worker_group import leave_out_quantisers, prepare_for_deepspeed
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import experiment_received

if TYPE_CHECKING:
    from orchestrator.executors.pool.member import Member

BEAT_SECONDS = 5.0
"""How often the member gives its mailbox a sign of life, whatever it does."""
EXCHANGE_SECONDS = 0.1
"""How often a busy member looks into its mailbox."""
IDLE_SECONDS = 0.05
"""How often an idle one does."""
GATHER_SECONDS = 5.0
"""How long a member without trials waits for one more before it begins with those that it has.
Trials that begin together share their passes to the end, with rows of the same length; with eight
that began three steps apart each took 1.18 times the CPU time."""


def member_worker(config: dict[str, Any]) -> None:
    """What every Ray Train worker of a member does: serve its mailbox until that is closed.

    Args:
        config: `experiment` (a document), `folder` (the sweep's), `shared` (a list holding the
            reference of the `PreparedData`), `mailbox` (an actor), `generation` (a number) and
            `expected` (how many trials it is likely to be given at first).
    """
    import ray
    from ray.exceptions import ActorDiedError

    mailbox, generation = config["mailbox"], config["generation"]
    experiment = experiment_received(config["experiment"])
    leave_out_quantisers(experiment)
    from orchestrator.executors.pool.member import Member

    workers = ALONE
    if experiment.resources.workers > 1:
        prepare_for_deepspeed(experiment)
        workers = Workers.of_group()
    deaths: int | None = None
    if workers.first:
        with suppress(ActorDiedError):  # nobody is left to work for
            deaths = ray.get(mailbox.begin.remote(generation))
    deaths = workers.broadcast(deaths)
    if deaths is None:
        return
    data: PreparedData = ray.get(config["shared"][0])
    incarnation = uuid.uuid4().hex

    def exchange(said: list[tuple[str, Message]], free: int) -> Todo:
        try:
            return ray.get(mailbox.exchange.remote(incarnation, said, free, generation))
        except ActorDiedError:
            # Whoever waits finds out by asking it. Starting anew would not bring it back.
            return Todo(close=True)

    with _beating(mailbox, generation) if workers.first else nullcontext():
        try:
            member = Member(experiment, data, Path(config["folder"]), workers, halvings=deaths)
        except ModelError as error:
            # Nothing but the same would come of starting anew.
            ray.get(mailbox.lose.remote(str(error)))
            return
        serve(member, exchange, workers, expected=config["expected"])


@contextmanager
def _beating(mailbox: Any, generation: int) -> Iterator[None]:
    """Meanwhile, give the mailbox signs of life: loading and passes may take long."""
    import ray
    from ray.exceptions import RayActorError

    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            with suppress(RayActorError):  # the exchange of messages meets it too, and decides
                ray.get(mailbox.beat.remote(generation))

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def serve(member: Member, exchange: Any, workers: Workers = ALONE, *, expected: int = 1) -> None:
    """Work until the mailbox is closed.

    Args:
        member: Who works.
        exchange: Hands over what was said and how many slots are free; gives what to do. Only the
            first worker's is called.
        workers: The member's workers.
        expected: A member without trials waits for so many, as long as they come.

    Raises:
        WorkersError: The workers have not all come to the same point, so that nothing of what was
            said since the last exchange may count.
    """
    said: list[tuple[str, Message]] = []
    gathering = _Gathering(expected)
    last = -EXCHANGE_SECONDS
    while True:
        if not workers.alone:
            _check_agreement(workers.all_gather([*member.names, [name for name, _ in said]]))
        now = time.monotonic()
        todo = None
        if workers.first and (said or not member.busy or now - last >= EXCHANGE_SECONDS):
            todo = gathering.through(exchange(said, member.free - gathering.held), member.busy)
        todo = workers.broadcast(todo)
        if todo is not None:
            last, said = now, []
            if todo.close:
                return
            for name in todo.drop:
                member.drop(name)
            for job in todo.join:
                member.take(job)
        said += member.work()
        if not member.busy and not said:
            time.sleep(IDLE_SECONDS)


class _Gathering:
    """Holds back the jobs of a member that has none, until as many have come as were expected."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._jobs: list[Job] = []
        self._came = 0.0

    @property
    def held(self) -> int:
        """How many jobs are held back."""
        return len(self._jobs)

    def through(self, todo: Todo, busy: bool) -> Todo:
        """Hold back what is to begin, or let go of all that was held.

        Args:
            todo: What the mailbox says.
            busy: Whether the member has trials.

        Returns:
            The same, with what is to begin now.
        """
        now = time.monotonic()
        at_once = tuple(job for job in todo.join if job.trial == BASE_TRIAL)
        come = [job for job in todo.join if job.trial != BASE_TRIAL]
        if come:
            self._came = now
        self._jobs = [job for job in self._jobs if job.trial not in todo.drop] + come
        if not busy and self.held < self._expected and now - self._came < GATHER_SECONDS:
            return replace(todo, join=at_once)
        ready, self._jobs = self._jobs, []
        return replace(todo, join=(*at_once, *ready))


def _check_agreement(states: list[Any]) -> None:
    for rank, state in enumerate(states):
        if state != states[0]:
            raise WorkersError(f"worker {rank} is at {state}, and the first worker at {states[0]}")
