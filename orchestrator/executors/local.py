"""The executor `local`: one trial in this process, with the plain engine."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.data.prepared import PreparedData
from orchestrator.executors.job import Job
from orchestrator.executors.messages import (
    Failed,
    Finished,
    MessageHere,
    Progressed,
    WorkSetAside,
)
from orchestrator.executors.task_adapters import TaskAdapters
from orchestrator.executors.trial_run import (
    adapted_model,
    check_engine_logits,
    fresh_heads,
    fresh_retention,
    learn_rest,
    tokenizer_for_texts,
)
from orchestrator.executors.trial_shell import KeptCheckpoint, TrialShell
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_checkpoints import found_checkpoint
from orchestrator.loop.trial_state import fresh_state, read_state
from orchestrator.records.trial_record import BASE_TRIAL


def run_locally(job: Job, data: PreparedData, tell: Callable[[MessageHere], None]) -> None:
    """One trial in this process with the plain engine; its last whole checkpoint is continued.

    Args:
        job: The trial.
        data: The tokenised data.
        tell: Receives what the trial says.
    """
    import torch

    torch.set_num_threads(job.experiment.resources.cpus_per_worker)
    local = _LocalTrial(job, data, tell)
    try:
        local.run()
    except DivergedError as error:
        tell(Failed(str(error)))


class _LocalTrial:
    """A trial in this process."""

    def __init__(self, job: Job, data: PreparedData, tell: Callable[[MessageHere], None]) -> None:
        from orchestrator.engines.plain import PlainEngine

        self._tell, experiment = tell, job.experiment
        self._name = name = job.trial
        self._checkpoint = checkpoint = job.folder.checkpoint(name)
        self._sequence = task_sequence(experiment, data)
        device = "cuda" if experiment.resources.gpus_per_worker else "cpu"
        self._model = adapted_model(name, experiment, data, device)
        self._engine = PlainEngine(
            self._model,
            experiment.training,
            batch_tokens=experiment.data.batch_tokens,
            heads=None if name == BASE_TRIAL else fresh_heads(self._sequence, self._model),
            tokenizer=tokenizer_for_texts(experiment, self._sequence),
            retention=None if name == BASE_TRIAL else fresh_retention(experiment),
        )
        check_engine_logits(self._engine, self._model)
        found, aside = found_checkpoint(checkpoint, job.maker)
        for thing in aside:
            tell(WorkSetAside.of(thing))
        if found is not None and name != BASE_TRIAL:
            self._engine.load(checkpoint)
        state = fresh_state(self._sequence) if found is None else read_state(checkpoint)
        kept = KeptCheckpoint(checkpoint, job.maker, tell)
        adapters = TaskAdapters(job.folder, name, experiment)
        self._shared = job.shared(lambda damaged: tell(WorkSetAside.of(damaged)))
        self._shell = TrialShell(job.maker, state, kept, adapters, shared=self._shared)

    def run(self) -> None:
        """Learn what is left of the sequence."""
        learn_rest(
            self._name,
            self._model,
            self._engine,
            self._sequence,
            self._shell.state,
            lambda report, matrix: self._shell.reported(report, matrix, self._engine),
            lambda progress: self._tell(Progressed(progress)),
            lambda index: self._shared.take(index, self._engine),
        )
        self._tell(Finished(self._shell.state.reports, self._checkpoint))
