"""The base of a pool's member, the trials that step on it, and those that wait for their turn.

A trial is saved at each of its reports, before anything is said of it, so a member that starts anew
goes on from there.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from orchestrator.data.prepared import PreparedData
from orchestrator.engines.device_memory import DeviceMemory
from orchestrator.engines.workers import ALONE, Workers, WorkersError
from orchestrator.executors.job import Job
from orchestrator.executors.messages import (
    Failed,
    Finished,
    Message,
    Paused,
    Ready,
    Reported,
    WorkSetAside,
)
from orchestrator.executors.pool.failures import Failure, attempt
from orchestrator.executors.pool.member_base import MemberBase
from orchestrator.executors.pool.slots import Ended
from orchestrator.executors.task_adapters import TaskAdapters
from orchestrator.executors.trial_shell import TrialShell
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.loop.requests import Taken
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_checkpoints import found_checkpoint, keep_checkpoint
from orchestrator.loop.trial_state import fresh_state, read_state, write_state
from orchestrator.loop.work_meter import Progress
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import Experiment
from orchestrator.system.seals import Maker


class Member:
    """The base, the trials that step on it, and those that wait for their turn."""

    def __init__(
        self,
        experiment: Experiment,
        data: PreparedData,
        folder: Path,
        workers: Workers = ALONE,
        *,
        halvings: int = 0,
    ) -> None:
        """Load the base.

        Args:
            experiment: The sweep's.
            data: Every task and probe.
            folder: The sweep's folder, where trials are saved; all workers read it.
            workers: The member's workers, each of which makes a `Member` and the same calls.
            halvings: How often passes are to be half as large as the experiment says.
        """
        import torch

        torch.set_num_threads(experiment.resources.cpus_per_worker)
        self._data, self._folder = data, folder
        self._workers, self._own = workers, uuid.uuid4().hex[:8]
        self._base = MemberBase(experiment, data, workers, halvings=halvings)
        self._memory = DeviceMemory(self._base.device)
        self._waiting: list[Job] = []
        self._crowd = math.inf
        """With so many trials in the pack another ran out of memory while it joined."""
        self._said: list[tuple[str, Message]] = []
        self._progress: dict[str, ProgressFile] = {}
        self._reports: dict[str, list[StageReport]] = {}
        self._checkpoints: dict[str, _MemberCheckpoints] = {}
        self._leaves = False
        """Whether it saves what it has, and lets go of it."""

    @property
    def names(self) -> list[str]:
        """The trials that have begun and those that wait."""
        return [*self.begun, *(job.trial for job in self._waiting)]

    @property
    def begun(self) -> list[str]:
        """The trials that are in the pack."""
        return self._base.pack.names if self._base.pack is not None else []

    @property
    def free(self) -> int:
        """How many more trials can begin."""
        return max(0, self._base.capacity - len(self.names))

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.names)

    def take(self, job: Job) -> None:
        """Begin a trial as soon as it can be."""
        if self._leaves:
            self._said.append((job.trial, Paused()))
        else:
            self._waiting.append(job)

    def leave(self) -> None:
        """Save every trial where it is, and let go of it: this process will be ended."""
        self._leaves = True
        self._said += [(job.trial, Paused()) for job in self._waiting]
        self._waiting = []

    def _pause(self, name: str) -> None:
        pack = self._base.pack
        assert pack is not None, "a trial that has begun is in a pack"
        state = pack.paused(name)
        if state is not None:
            place = self._checkpoints[name]
            fresh = place.fresh()
            pack.engine(name).save(fresh, with_optimizer=True)
            if self._workers.first:
                write_state(fresh, state)
            place.put(fresh)
        said = self._said
        self.drop(name)
        self._said = [*said, (name, Paused())]

    def drop(self, name: str) -> None:
        """Forget a trial, whatever it has learnt."""
        self._waiting = [job for job in self._waiting if job.trial != name]
        self._forget(name)
        if self._base.pack is not None and name in self.begun:
            self._base.pack.drop(name)

    def _forget(self, name: str) -> None:
        """Say nothing of a trial but what was set aside, and keep nothing of what it said."""
        self._said = [
            (trial, message)
            for trial, message in self._said
            if trial != name or isinstance(message, WorkSetAside)
        ]
        self._reports.pop(name, None)
        self._progress.pop(name, None)
        self._checkpoints.pop(name, None)

    def work(self) -> list[tuple[str, Message]]:
        """Begin what can begin, and let every trial go on by one step.

        Returns:
            What there is to say: trial and message.
        """
        self.begin()
        pack = self._base.pack
        if pack is not None and pack.names:
            sizes = pack.pass_tokens
            with self._memory.watched():
                ended = pack.tick()
            self._memory.tokens = max(self._memory.tokens, pack.largest)
            if pack.pass_tokens != sizes:
                self._memory.forget()  # what has just filled the memory is not tried again
            for end in ended:
                self._ended(end)
            for name in pack.names:
                self._tell_progress(name, pack.progress(name))
            for name in [n for n in pack.names if self._leaves and pack.between_steps(n)]:
                self._pause(name)
        said, self._said = self._said, []
        return said

    def begin(self) -> None:
        """Let every trial that waits begin, where there is room for it."""
        for job in list(self._waiting):
            if self._begin(job):
                self._waiting.remove(job)

    def _begin(self, job: Job) -> bool:
        """Let a trial join; False while it has to wait for a pack of its own layers."""
        name = job.trial
        if name == BASE_TRIAL:
            self._measure_base(job.experiment)
            return True
        begun = attempt(functools.partial(self._let_join, job))
        if isinstance(begun, bool):
            return begun
        if begun.memory and not self._workers.alone:
            raise WorkersError(f"worker {self._workers.rank} is out of memory: {begun.reason}")
        self._forget(name)
        if begun.memory and self.begun:
            self._crowd = len(self.begun)
            return False  # until another has ended
        # Of this trial's settings, layers or checkpoint: the others go on.
        self._fail(name, _plain(begun), begun.details)
        return True

    def _let_join(self, job: Job) -> bool:
        name, maker, experiment = job.trial, job.maker, job.experiment
        pack = self._base.pack_for(experiment)
        if pack is None or not pack.free:
            return False
        if len(pack.names) >= self._crowd:
            return False
        self._crowd = math.inf
        need, shared = pack.bytes_of(experiment), bool(pack.names)
        if shared and not self._memory.seen:
            return False  # until the first has shown what a pass takes
        # Beside others a pass must fit as it is; alone, passes are made to fit.
        sequence = task_sequence(experiment, self._data)
        tokens = pack.tokens_with(experiment, sequence)
        fits = self._memory.holds(need, tokens) if shared else need <= self._memory.free()
        if not all(self._workers.all_gather(fits)):
            if shared:
                return False  # until another has ended
            self._fail(name, *[self._no_room(need)] * 2)
            return True
        self._progress[name] = ProgressFile(self._folder, name)
        snapshot, aside = None, []
        if self._workers.first:
            snapshot, aside = found_checkpoint(self._checkpoint(name), maker)
        snapshot, aside = self._workers.broadcast((snapshot, aside))
        self._said += [(name, WorkSetAside.of(found)) for found in aside]

        state = fresh_state(sequence) if snapshot is None else read_state(snapshot)
        adapters = TaskAdapters(SweepFolder(self._folder), name, experiment)
        checkpoints = _MemberCheckpoints(
            self._checkpoint(name), self._own if self._workers.first else None, maker,
            functools.partial(self._say_stage, name),
        )  # fmt: skip
        self._checkpoints[name] = checkpoints
        first, share = self._workers.first, self._workers.broadcast
        alike = job.shared(lambda found: self._said.append((name, WorkSetAside.of(found))))
        shell = TrialShell(maker, state, checkpoints, adapters, first=first, shared=alike)

        def hear(report: StageReport, matrix: AccuracyMatrix) -> None:
            shell.reported(report, matrix, pack.engine(name))

        def take_over(index: int) -> Taken | None:
            return alike.take(index, pack.engine(name), first=first, share=share)

        self._reports[name] = list(state.reports)
        # A member that died may have saved what nobody has heard of.
        self._said.append((name, Ready(os.getpid(), state.reports, snapshot)))
        for end in pack.join(name, experiment, sequence, hear, snapshot, take_over):
            self._ended(end)
        return True

    def _no_room(self, need: int) -> str:
        return (
            f"the trial alone needs {need / 2**30:.2f} GiB, and {self._memory.free() / 2**30:.2f} "
            "GiB are free on the member; lower its rank"
        )

    def _measure_base(self, experiment: Experiment) -> None:
        """Row 0, on the bare base; trials wait meanwhile."""
        work = functools.partial(self._read_base, experiment)
        found: Failure | None
        if self._workers.alone:
            found = attempt(work)
        else:
            try:
                found = work()
            except (ValueError, DivergedError) as error:  # what all workers raise alike
                found = Failure.of(error)
        if isinstance(found, Failure):
            self._fail(BASE_TRIAL, _plain(found), found.details)
            return
        self._said.append((BASE_TRIAL, Finished()))

    def _read_base(self, experiment: Experiment) -> None:
        file = ProgressFile(self._folder, BASE_TRIAL)
        self._base.measure(
            experiment,
            task_sequence(experiment, self._data),
            on_report=lambda report, _: self._say_stage(BASE_TRIAL, report, None),
            on_progress=file.write if self._workers.first else lambda _: None,
        )

    # ----------------------------------------------------------------------------- what is said

    def _checkpoint(self, name: str) -> Path:
        return SweepFolder(self._folder).checkpoint(name)

    def _say_stage(self, name: str, report: StageReport, checkpoint: Path | None) -> None:
        self._said.append((name, Reported(report, checkpoint)))
        if name in self._reports:
            self._reports[name].append(report)

    def _tell_progress(self, name: str, progress: Progress) -> None:
        if self._workers.first:
            self._progress[name].write(progress)

    def _ended(self, end: Ended) -> None:
        reports = self._reports.pop(end.name)
        if end.matrix is None:
            self._fail(end.name, end.reason, end.details)
            return
        # What was said before a restart may not have been heard: the last message repeats it all.
        self._said.append((end.name, Finished(tuple(reports), self._checkpoint(end.name))))

    def _fail(self, name: str, reason: str, details: str) -> None:
        self._said.append((name, Failed(reason, details)))


class _MemberCheckpoints:
    """Checkpoints of a trial in a member, of which the last is kept; the first worker writes."""

    def __init__(
        self,
        kept: Path,
        own: str | None,
        maker: Maker,
        tell: Callable[[StageReport, Path | None], None],
    ) -> None:
        # A member that was taken for lost may write, too, until it is told to forget the trial: so
        # each has a name of its own for what it writes.
        self._kept, self._fresh = kept, kept.with_name(f"checkpoint.{own}.new")
        self._writes, self._maker, self._tell = own is not None, maker, tell

    def fresh(self) -> Path:
        if self._writes:
            shutil.rmtree(self._fresh, ignore_errors=True)
            self._fresh.mkdir(parents=True)
        return self._fresh

    def put(self, fresh: Path) -> None:
        """Let a checkpoint be the one that is kept."""
        if self._writes:
            keep_checkpoint(fresh, self._kept, self._maker)

    def keep(self, fresh: Path, report: StageReport) -> None:
        self.put(fresh)
        self._tell(report, self._kept)

    def tell(self, report: StageReport) -> None:
        self._tell(report, None)


def _plain(failure: Failure) -> str:
    """What went wrong; of a wrong value its kind says nothing."""
    return failure.reason.removeprefix("ValueError: ")
