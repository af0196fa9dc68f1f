"""The executor `pool`, seen from the driver: members that live as long as the sweep needs them.

Each member is a Ray Train run of one worker group (`member_worker`) of
`resources.workers` workers: Ray Train places it, and starts all of it anew where one dies. Trials
are light Ray Tune trials (`slot_trial`) that talk to a member through its mailbox.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.executors.cluster_fit import HEAD_RESOURCE
from orchestrator.executors.pool.mailbox import Mailbox
from orchestrator.executors.worker_group import worker_group
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import ResourceSpec

FOR_EVER = -1
"""Ray Train starts a member anew whenever it dies: spot workers come and go. The mailbox says when
to stop, by what it holds against trials and against a member that dies before it has loaded."""
PLACEMENTS = 15
"""How often Ray Train tries to place a member, two minutes each, while a lost node is replaced."""
AHEAD = 1
"""Trials that wait for a slot of each member, so that a slot is refilled at once."""
CLOSE_SECONDS = 60.0
"""How long members may take to end: a tick, and Ray Train's shutdown."""


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
        import ray

        self._experiment, self._sweep_folder, self._shared = experiment, folder, shared
        self._unfinished, self._avoid, self._note = unfinished, avoid, note
        resources = experiment.resources
        head = {HEAD_RESOURCE: 0.0001}
        actor: Any = ray.remote(num_cpus=0, resources=head)(Mailbox)
        self.mailboxes: list[Any] = [
            actor.remote(max_failures=resources.max_failures) for _ in range(members)
        ]
        self._one = resources
        self._threads: list[threading.Thread] = []
        self._ending: Sequence[threading.Thread] = ()
        self._starts = 0
        self._member_of: dict[str, int] = {}
        self._lost: set[int] = set()
        """Members that have ended although their mailboxes had not been closed."""

    @property
    def is_open(self) -> bool:
        """Whether the members have been started."""
        return bool(self._threads)

    @property
    def places(self) -> int:
        """How many trials may be in it or wait for a slot."""
        return len(self._living()) * (self._one.slots + AHEAD)

    def _living(self) -> list[int]:
        """The members that can take trials; all, where none can, since trials ask one after all."""
        every = range(len(self.mailboxes))
        return [number for number in every if number not in self._lost] or list(every)

    @property
    def resources(self) -> Sequence[ResourceSpec]:
        """What the members hold while it is open."""
        return [self._one] * len(self.mailboxes)

    def open(self) -> None:
        """Start the members."""
        import ray

        self._join_threads()
        self._starts += 1
        self._lost.clear()
        ray.get([mailbox.reopen.remote(self._starts) for mailbox in self.mailboxes])
        self._note(
            f"starting {len(self.mailboxes)} member(s) of the pool, {self._one.slots} slots each"
        )
        for number, mailbox in enumerate(self.mailboxes):
            thread = threading.Thread(
                target=self._keep, args=(number, mailbox), name=f"member {number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _keep(self, number: int, mailbox: Any) -> None:
        """Run a member until its mailbox is closed; in a thread, since Ray Train blocks."""
        try:
            self._trainer(number, mailbox).fit()
            reason = "it has ended"
        except Exception as error:  # noqa: BLE001 (trials must not wait for this member)
            lines = str(error).strip().splitlines()
            reason = lines[-1] if lines else repr(error)
        # After the end nobody asks, and a call would start another Ray if this one has been left.
        if self.mailboxes and threading.current_thread() in self._threads:
            self._lost.add(number)
            mailbox.lose.remote(reason)

    def _trainer(self, number: int, mailbox: Any) -> Any:
        from ray.train import FailureConfig, RunConfig
        from ray.train.torch import TorchTrainer

        from orchestrator.executors.pool.member_worker import member_worker

        return TorchTrainer(
            member_worker,
            train_loop_config=self._member(mailbox),
            **worker_group(self._one, self._avoid()),
            run_config=RunConfig(
                name=f"member-{number}-{self._starts}",
                storage_path=str(self._folder),
                failure_config=FailureConfig(
                    max_failures=FOR_EVER, controller_failure_limit=PLACEMENTS
                ),
            ),
        )

    def _member(self, mailbox: Any) -> dict[str, Any]:
        """What a member is told, which Ray writes into its own files, too."""
        return {
            "experiment": self._experiment.for_workers(),
            "folder": str(self._sweep_folder),
            "shared": self._shared,
            "mailbox": mailbox,
            "generation": self._starts,
            "expected": self._expected,
        }

    @property
    def _expected(self) -> int:
        """How many trials each member is likely to be given at first."""
        search = self._experiment.search
        trials = min(self._experiment.searched_trials, self._unfinished())
        limit = search.max_concurrent if search is not None else None
        share = math.ceil(min(trials, limit or trials) / len(self.mailboxes))
        return max(1, min(share, self._one.slots))

    @property
    def _folder(self) -> Path:
        return SweepFolder(self._sweep_folder).members

    def shut(self) -> None:
        """Let the members end; what is in them goes on from its last report, elsewhere or later."""
        for mailbox in self.mailboxes:
            mailbox.close.remote()
        self._ending, self._threads = self._threads, []

    def _join_threads(self) -> None:
        for thread in self._ending:
            thread.join(CLOSE_SECONDS)
        self._ending = ()

    def close(self) -> None:
        """End the members and the mailboxes."""
        import ray

        self.shut()
        ending, self.mailboxes = self.mailboxes, []
        self._join_threads()
        for mailbox in ending:
            ray.kill(mailbox)
        shutil.rmtree(self._folder, ignore_errors=True)

    def assign(self, trial: str) -> int:
        """Choose the member that has fewest trials.

        Args:
            trial: Its name.

        Returns:
            The member's number.
        """
        loads = Counter(self._member_of.values())
        chosen = min(self._living(), key=lambda number: (loads[number], number))
        self._member_of[trial] = chosen
        return chosen

    def release(self, trial: str) -> None:
        """A trial has ended, or is not wanted any more: its slot is free at once."""
        if self._member_of.pop(trial, None) is not None:
            # It may have gone on in another member than the one that it was given first.
            for mailbox in self.mailboxes:
                mailbox.release.remote(trial)
