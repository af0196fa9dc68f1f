"""A member of the pool at work: it serves its desk until it is told to end.

It has one worker where the base fits onto a device. Several shard the rows of each pass across
them, and with ZeRO stage 3 the base, too; the first one goes to the desk, decides what depends
on time, memory or files, and broadcasts it.

It lives as long as the sweep. Between ticks it exchanges messages at its desk: which trials to
begin, which to forget, what was measured.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import ModelError
from orchestrator.data.prepared import PreparedData
from orchestrator.engines.workers import ALONE, Workers, WorkersError
from orchestrator.executors.desk import Desk
from orchestrator.executors.job import Job, MemberConfig
from orchestrator.executors.messages import Message, Todo
from orchestrator.executors.watching.signs_of_life import signs_of_life
from orchestrator.executors.worker_group import leave_out_quantisers, prepare_for_deepspeed
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import Experiment, experiment_received
from orchestrator.system.pulse import rested

if TYPE_CHECKING:
    from orchestrator.executors.pool.member import Member

EXCHANGE_SECONDS = 0.1
"""How often a busy member goes to its desk."""
IDLE_SECONDS = 0.05
"""How often an idle one does."""
GATHER_SECONDS = 5.0
"""How long a member without trials waits for one more before it begins with those that it has,
unless it is told that none will come: others may be held back until these have learnt a task.
Trials that begin together share their passes to the end, with rows of the same length; with eight
that began three steps apart each took 1.18 times the CPU time."""


def work_alone(config: MemberConfig, desk: Desk, deaths: int) -> str | None:
    """Be a member of one worker.

    Args:
        config: What it is told.
        desk: In this process.
        deaths: How often in a row it died with jobs in it.

    Returns:
        None once it was told to end; why it cannot work, where starting anew would not help.
    """
    incarnation = uuid.uuid4().hex
    experiment = experiment_received(config.experiment)
    leave_out_quantisers(experiment)
    return _work(
        experiment, config, ALONE, deaths,
        lambda said, free: desk.exchange(incarnation, said, free), nullcontext(),
    )  # fmt: skip


def work_in_group(config: dict[str, Any]) -> None:
    """What every Ray Train worker of a member of several does.

    Args:
        config: `member`, a `MemberConfig`, and `group`, the actor in which its desk is.
    """
    import ray
    from ray.exceptions import ActorDiedError

    group, told = config["group"], config["member"]
    experiment = experiment_received(told.experiment)
    leave_out_quantisers(experiment)
    prepare_for_deepspeed(experiment)
    workers = Workers.of_group()
    deaths: int | None = None
    if workers.first:
        with suppress(ActorDiedError):  # nobody is left to work for
            deaths = ray.get(group.begin.remote())
    deaths = workers.broadcast(deaths)
    if deaths is None:
        return
    incarnation = uuid.uuid4().hex

    def exchange(said: list[tuple[str, Message]], free: int) -> Todo:
        try:
            return ray.get(group.exchange.remote(incarnation, said, free))
        except ActorDiedError:
            # Nobody is left to work for.
            return Todo(close=True)

    beating = signs_of_life(group) if workers.first else nullcontext()
    lost = _work(experiment, told, workers, deaths, exchange, beating)
    if lost is not None:
        ray.get(group.lost.remote(lost))


def _work(
    experiment: Experiment,
    config: MemberConfig,
    workers: Workers,
    deaths: int,
    exchange: Callable[[list[tuple[str, Message]], int], Todo],
    beating: AbstractContextManager[None],
) -> str | None:
    """Load the base and serve the desk; see `work_alone`."""
    import ray

    from orchestrator.executors.pool.member import Member

    data: PreparedData = ray.get(config.shared[0])
    with beating:
        try:
            member = Member(experiment, data, Path(config.folder), workers, halvings=deaths)
        except ModelError as error:
            return str(error)
        serve(member, exchange, workers, expected=config.expected)
    return None


def serve(member: Member, exchange: Any, workers: Workers = ALONE, *, expected: int = 1) -> None:
    """Work until the desk says that it is the end.

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
            _follow(member, todo)
        said += member.work()
        if not member.busy:
            rested()
            if not said:
                time.sleep(IDLE_SECONDS)


def _follow(member: Member, todo: Todo) -> None:
    """Forget, save and begin what the driver asks."""
    for name in todo.drop:
        member.drop(name)
    if todo.save:
        member.leave()
    for job in todo.join:
        member.take(job)


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
            todo: What the desk says.
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
        few = self.held < self._expected and not todo.all_there and not todo.save
        if not busy and few and now - self._came < GATHER_SECONDS:
            return replace(todo, join=at_once)
        ready, self._jobs = self._jobs, []
        return replace(todo, join=(*at_once, *ready))


def _check_agreement(states: list[Any]) -> None:
    for rank, state in enumerate(states):
        if state != states[0]:
            raise WorkersError(f"worker {rank} is at {state}, and the first worker at {states[0]}")
