"""The executor `pool`: trials step together over one base that stays in memory.

One process of this machine for now: what runs in it is what a member of a larger pool will run.
A trial that cannot be packed, or adapts other layers than the pack at hand, runs by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.base_model import load_base, load_tokenizer
from orchestrator.continual_loop import Learning, StageReport, measure_base, run
from orchestrator.driver import Driver
from orchestrator.engine import PlainEngine
from orchestrator.experiment import Experiment, default_batch_tokens
from orchestrator.packed_trials import Ended, PackedTrials, packing_refuses
from orchestrator.scored_model import check_logits
from orchestrator.tasks import GenerationTask
from orchestrator.training import BASE_TRIAL
from orchestrator.trial_state import task_sequence


class Pool:
    """The base, and the trials that learn on it now."""

    def __init__(self, driver: Driver, run_alone: Callable[[str], None]) -> None:
        """Load the base.

        Args:
            driver: The sweep.
            run_alone: Runs a trial that cannot be packed from its beginning to its end.
        """
        import torch

        self._driver = driver
        self._run_alone = run_alone
        experiment = driver.experiment
        torch.set_num_threads(experiment.resources.cpus_per_worker)
        device = "cuda" if experiment.resources.gpus_per_worker else "cpu"
        self._base: Any = load_base(experiment.model, experiment.training.precision, device)
        writes = any(isinstance(task, GenerationTask) for task in driver.loaded.tasks.values())
        self._tokenizer = load_tokenizer(experiment.model) if writes else None
        self._batch_tokens = experiment.data.batch_tokens or default_batch_tokens(
            on_gpu=device == "cuda"
        )
        self._pack: PackedTrials | None = None
        self._targets: Any = None
        self._ids: dict[str, str] = {}

    def run(self, caught_up: Callable[[], None]) -> None:
        """Run what is missing of the sweep.

        Args:
            caught_up: Called whenever a trial has ended.
        """
        number = 0
        while True:
            job: Any = None
            while self._free and isinstance(job := self._driver.next_job(str(number)), dict):
                name = str(job["trial"])
                self._ids[name] = str(number)
                number += 1
                self._driver.observer.progress(name, {"phase": "starting"})
                if not self._join(name):
                    self._driver.ended(self._ids[name], error=False)
                    caught_up()
            if self._pack is None or not self._pack.names:
                if not isinstance(job, dict):
                    return
                continue
            for end in self._pack.tick():
                self._ended(end)
                caught_up()

    @property
    def _free(self) -> int:
        return self._driver.experiment.resources.slots if self._pack is None else self._pack.free

    def _join(self, name: str) -> bool:
        """Begin a trial in the pack; False when it has run by itself."""
        experiment = self._driver.trial_experiment(name)
        if name == BASE_TRIAL:
            self._measure_base(experiment)
            return False
        pack = self._pack_for(experiment)
        if pack is None:
            self._run_alone(name)
            return False

        def hear(report: StageReport, matrix: AccuracyMatrix) -> None:
            folder = self._driver.journal.folder / "ray" / name / "checkpoint"
            if matrix.complete and report.row is not None:
                pack.save_adapter(name, folder / "adapter")
            self._hear(name, report, folder)

        try:
            ended = pack.join(name, experiment, task_sequence(experiment, self._driver.data), hear)
        except ValueError as error:
            self._driver.hear_trial(name, {"kind": "failed", "reason": str(error)})
            return False
        for end in ended:
            self._ended(end)
        return True

    def _pack_for(self, experiment: Experiment) -> PackedTrials | None:
        """The pack that a trial can join; None where there is none."""
        if packing_refuses(experiment.method) is not None:
            return None
        sequence = task_sequence(experiment, self._driver.data)
        if experiment.training.accumulation != 1 or any(t.has_head for t in sequence.tasks):
            return None
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
                capacity=experiment.resources.slots,
                batch_tokens=self._batch_tokens,
                tokenizer=self._tokenizer,
            )
        return self._pack

    def _measure_base(self, experiment: Experiment) -> None:
        sequence = task_sequence(experiment, self._driver.data)
        engine = PlainEngine(
            self._base, experiment.training, batch_tokens=self._batch_tokens,
            tokenizer=self._tokenizer,
        )  # fmt: skip
        check_logits(engine.scored, self._base.config.get_text_config().vocab_size)
        learning: Learning = measure_base(sequence)
        run(
            learning,
            engine,
            sequence=sequence,
            matrix=AccuracyMatrix.empty([task.name for task in sequence.tasks]),
            start=None,
            on_report=lambda report, _: self._hear(BASE_TRIAL, report, None),
            on_progress=lambda _: None,
        )

    def _hear(self, name: str, report: StageReport, folder: Path | None) -> None:
        message: dict[str, Any] = {"kind": "stage", "report": report.as_document()}
        if folder is not None:
            message["checkpoint_path"] = str(folder)
        self._driver.hear_trial(name, message)

    def _ended(self, end: Ended) -> None:
        if end.matrix is None:
            self._driver.hear_trial(end.name, {"kind": "failed", "reason": end.reason})
        self._driver.ended(self._ids.pop(end.name), error=False)
