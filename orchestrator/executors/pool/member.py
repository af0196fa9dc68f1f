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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.base.loading import load_base, load_tokenizer, partitioned
from orchestrator.data.prepared import PreparedData
from orchestrator.engines.device_memory import DeviceMemory
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.scored_model import check_logits
from orchestrator.engines.sharded_base import ShardedBase, zero3_config
from orchestrator.engines.workers import ALONE, RankError, Ranks
from orchestrator.executors.pool.bare_base import BareBase
from orchestrator.executors.pool.failures import Failure, attempt
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.executors.pool.slots import Ended
from orchestrator.loop.answer import run
from orchestrator.loop.learn import measure_base
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_checkpoints import found_checkpoint, keep_checkpoint
from orchestrator.loop.trial_state import BASE_TRIAL, read_state
from orchestrator.loop.work_meter import Progress
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.experiment import Experiment, experiment_received
from orchestrator.spec.sections import default_batch_tokens
from orchestrator.spec.task_kinds import GenerationTask
from orchestrator.system.seals import Maker, seal


class Member:
    """The base, the trials that step on it, and those that wait for their turn."""

    def __init__(
        self,
        experiment: Experiment,
        data: PreparedData,
        folder: Path,
        ranks: Ranks = ALONE,
        *,
        halvings: int = 0,
    ) -> None:
        """Load the base.

        Args:
            experiment: The sweep's.
            data: Every task and probe.
            folder: The sweep's folder, where trials are saved; all workers read it.
            ranks: The member's workers, each of which makes a `Member` and the same calls.
            halvings: How often passes are to be half as large as the experiment says.
        """
        import torch

        resources = experiment.resources
        torch.set_num_threads(resources.cpus_per_worker)
        self._experiment, self._data, self._folder = experiment, data, folder
        device: Any = "cpu"
        if resources.gpus_per_worker:
            device = torch.device("cuda", torch.cuda.current_device())
        self._ranks, self._own = ranks, uuid.uuid4().hex[:8]
        zero3 = None if ranks.alone else zero3_config(experiment.training)
        with partitioned(zero3):
            self._base: Any = load_base(experiment.model, experiment.training.precision, device)
        self._parted = ShardedBase(self._base, zero3) if zero3 is not None else None
        writes = any(isinstance(task.spec, GenerationTask) for task in data.tasks.values())
        self._tokenizer = load_tokenizer(experiment.model) if writes else None
        tokens = experiment.data.batch_tokens or default_batch_tokens(
            on_gpu=resources.gpus_per_worker > 0, packed=True
        )
        self._batch_tokens = max(1, tokens >> halvings)
        self._capacity = resources.slots
        self._memory = DeviceMemory(device)
        self._pack: PackedTrials | None = None
        self._targets: Any = None
        self._waiting: list[dict[str, Any]] = []
        self._crowd = math.inf
        """With so many trials in the pack another ran out of memory while it joined."""
        self._said: list[tuple[str, dict[str, Any]]] = []
        self._progress: dict[str, ProgressFile] = {}
        self._reports: dict[str, list[dict[str, Any]]] = {}

    @property
    def names(self) -> list[str]:
        """The trials that have begun and those that wait."""
        return [*self.begun, *(str(job["trial"]) for job in self._waiting)]

    @property
    def begun(self) -> list[str]:
        """The trials that are in the pack."""
        return self._pack.names if self._pack is not None else []

    @property
    def free(self) -> int:
        """How many more trials can begin."""
        return max(0, self._capacity - len(self.names))

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.names)

    def take(self, job: dict[str, Any]) -> None:
        """Begin a trial as soon as it can be.

        Args:
            job: `trial`, `experiment` and `maker` (documents).
        """
        self._waiting.append(job)

    def drop(self, name: str) -> None:
        """Forget a trial, whatever it has learnt."""
        self._waiting = [job for job in self._waiting if job["trial"] != name]
        self._forget(name)
        if self._pack is not None and name in self.begun:
            self._pack.drop(name)

    def _forget(self, name: str) -> None:
        """Say nothing of a trial but what was set aside, and keep nothing of what it said."""
        self._said = [
            (trial, message)
            for trial, message in self._said
            if trial != name or message["kind"] == "set_aside"
        ]
        self._reports.pop(name, None)
        self._progress.pop(name, None)

    def work(self) -> list[tuple[str, dict[str, Any]]]:
        """Begin what can begin, and let every trial go on by one step.

        Returns:
            What there is to say: trial and message.
        """
        self.begin()
        if self._pack is not None and self._pack.names:
            sizes = self._pack.pass_tokens
            with self._memory.watched():
                ended = self._pack.tick()
            self._memory.tokens = max(self._memory.tokens, self._pack.largest)
            if self._pack.pass_tokens != sizes:
                self._memory.forget()  # what has just filled the memory is not tried again
            for end in ended:
                self._ended(end)
            for name in self._pack.names:
                self._tell_progress(name, self._pack.progress(name))
        said, self._said = self._said, []
        return said

    def begin(self) -> None:
        """Let every trial that waits begin, where there is room for it."""
        for job in list(self._waiting):
            if self._begin(job):
                self._waiting.remove(job)

    def _begin(self, job: Mapping[str, Any]) -> bool:
        """Let a trial join; False while it has to wait for a pack of its own layers."""
        name = str(job["trial"])
        experiment = experiment_received(job["experiment"])
        if name == BASE_TRIAL:
            self._measure_base(experiment)
            return True
        maker = Maker(**job["maker"])
        begun = attempt(functools.partial(self._let_join, maker, experiment))
        if isinstance(begun, bool):
            return begun
        if begun.memory and not self._ranks.alone:
            raise RankError(f"worker {self._ranks.rank} is out of memory: {begun.reason}")
        self._forget(name)
        if begun.memory and self.begun:
            self._crowd = len(self.begun)
            return False  # until another has ended
        # Of this trial's settings, layers or checkpoint: the others go on.
        self._fail(name, _plain(begun), begun.details)
        return True

    def _let_join(self, maker: Maker, experiment: Experiment) -> bool:
        name = maker.trial
        pack = self._pack_for(experiment)
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
        if not all(self._ranks.parts(fits)):
            if shared:
                return False  # until another has ended
            self._fail(name, *[self._no_room(need)] * 2)
            return True
        self._progress[name] = ProgressFile(self._folder, name)
        snapshot, aside = None, []
        if self._ranks.first:
            snapshot, aside = found_checkpoint(self._checkpoint(name), maker)
        snapshot, aside = self._ranks.told((snapshot, aside))
        self._said += [(name, found.as_message()) for found in aside]

        def hear(report: StageReport, matrix: AccuracyMatrix) -> None:
            self._hear(pack, maker, report, matrix)

        self._reports[name] = []
        if snapshot is not None:
            self._reports[name] = [r.as_document() for r in read_state(snapshot).reports]
        self._said.append((name, {"kind": "ready", "worker_pid": os.getpid()}))
        for end in pack.join(name, experiment, sequence, hear, snapshot):
            self._ended(end)
        return True

    def _no_room(self, need: int) -> str:
        return (
            f"the trial alone needs {need / 2**30:.2f} GiB, and {self._memory.free() / 2**30:.2f} "
            "GiB are free on the member; lower its rank"
        )

    def _pack_for(self, experiment: Experiment) -> PackedTrials | None:
        """The pack of a trial's layers; None while trials of other layers hold the base."""
        targets = getattr(experiment.method.adapter, "target_modules", None)
        if self._pack is not None and self._targets != targets:
            if self._pack.names:
                return None
            self._pack.unhook()
            self._pack = None
        if self._pack is None:
            self._targets = targets
            self._pack = PackedTrials(
                self._base,
                list(targets) if isinstance(targets, tuple) else targets,
                capacity=self._capacity,
                batch_tokens=self._batch_tokens,
                tokenizer=self._tokenizer,
                ranks=self._ranks,
                parted=self._parted,
            )
        return self._pack

    def _bare_base(self, experiment: Experiment) -> Any:
        """Who computes row 0."""
        if self._ranks.alone:
            return PlainEngine(
                self._base, experiment.training, batch_tokens=self._batch_tokens,
                tokenizer=self._tokenizer,
            )  # fmt: skip
        pack = self._pack or self._pack_for(experiment)
        assert pack is not None  # only trials that have begun can be in the way of another pack
        return BareBase(pack)

    def _measure_base(self, experiment: Experiment) -> None:
        """Row 0, on the bare base; trials wait meanwhile."""
        work = functools.partial(self._read_base, experiment)
        found: Failure | None
        if self._ranks.alone:
            found = attempt(work)
        else:
            try:
                found = work()
            except (ValueError, DivergedError) as error:  # what all workers raise alike
                found = Failure.of(error)
        if isinstance(found, Failure):
            self._fail(BASE_TRIAL, _plain(found), found.details)
            return
        self._said.append((BASE_TRIAL, {"kind": "finished", "reports": [], "checkpoint_path": ""}))

    def _read_base(self, experiment: Experiment) -> None:
        sequence = task_sequence(experiment, self._data)
        file = ProgressFile(self._folder, BASE_TRIAL)
        engine = self._bare_base(experiment)
        check_logits(engine.scored, self._base.config.get_text_config().vocab_size)
        run(
            measure_base(sequence),
            engine,
            sequence=sequence,
            matrix=AccuracyMatrix.empty([task.name for task in sequence.tasks]),
            start=None,
            on_report=lambda report, _: self._say_stage(BASE_TRIAL, report, None),
            on_progress=file.write if self._ranks.first else lambda _: None,
        )

    # ----------------------------------------------------------------------------- what is said

    def _checkpoint(self, name: str) -> Path:
        return self._folder / "ray" / name / "checkpoint"

    def _hear(
        self, pack: PackedTrials, maker: Maker, report: StageReport, matrix: AccuracyMatrix
    ) -> None:
        """Save a trial, then say what it reported."""
        name = maker.trial
        kept = self._checkpoint(name)
        # A member that was taken for lost may write, too, until it is told to forget the trial.
        fresh = kept.with_name(f"checkpoint.{self._own}.new")
        if self._ranks.first:
            shutil.rmtree(fresh, ignore_errors=True)
        if matrix.complete and report.row is not None:
            # All workers take part, so nothing that can fail on the first alone comes before it.
            pack.save_adapter(name, fresh / "adapter")
        if self._ranks.first:
            fresh.mkdir(parents=True, exist_ok=True)
            if (fresh / "adapter").is_dir():
                seal(fresh / "adapter", maker)
            pack.save(name, fresh)
            keep_checkpoint(fresh, kept, maker)
        self._say_stage(name, report, kept)

    def _say_stage(self, name: str, report: StageReport, checkpoint: Path | None) -> None:
        message: dict[str, Any] = {"kind": "stage", "report": report.as_document()}
        if checkpoint is not None:
            message["checkpoint_path"] = str(checkpoint)
        self._said.append((name, message))
        if name in self._reports:
            self._reports[name].append(message["report"])

    def _tell_progress(self, name: str, progress: Progress) -> None:
        if self._ranks.first:
            self._progress[name].write(progress)

    def _ended(self, end: Ended) -> None:
        reports = self._reports.pop(end.name)
        if end.matrix is None:
            self._fail(end.name, end.reason, end.details)
            return
        # What was said before a restart may not have been heard: the last message repeats it all.
        self._said.append((
            end.name,
            {
                "kind": "finished",
                "checkpoint_path": str(self._checkpoint(end.name)),
                "reports": reports,
            },
        ))  # fmt: skip

    def _fail(self, name: str, reason: str, details: str) -> None:
        self._said.append((name, {"kind": "failed", "reason": reason, "details": details}))


def _plain(failure: Failure) -> str:
    """What went wrong; of a wrong value its kind says nothing."""
    return failure.reason.removeprefix("ValueError: ")
