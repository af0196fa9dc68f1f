"""Which trials learn the same, so that it is learnt once: who waits for whom, who repeats whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.loop.task_keys import TaskKeys, task_keys
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.sweep.deciding.admission import Admission
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.trial import Trial


class SharedWork:
    """Knows what the work of each trial follows from."""

    def __init__(
        self, ledger: Ledger, admission: Admission, follows_from: Mapping[str, Any] | None
    ) -> None:
        """Begin; trials wait from now on for those that learn the same.

        Args:
            ledger: The sweep's.
            admission: Knows where each trial runs, and lets it wait.
            follows_from: What numbers follow from besides settings and data; None where that is not
                known, and nothing is shared.
        """
        self._ledger, self._admission, self._follows_from = ledger, admission, follows_from
        self._keys: dict[str, TaskKeys] = {}
        self._learnt_by: dict[str, str] = {}
        self._missed = False
        admission.awaits = self.awaits

    def keys(self, name: str) -> TaskKeys:
        """What the state of a trial after each of its tasks follows from.

        Args:
            name: The trial.

        Returns:
            The hashes; none of the untouched base, and where nothing is shared.
        """
        if name not in self._keys:
            ledger = self._ledger
            # What is packed and what has workers of its own differ by rounding.
            follows_from = {**(self._follows_from or {}), "packed": self._is_packed(name)}
            self._keys[name] = (
                TaskKeys()
                if name == BASE_TRIAL or self._follows_from is None
                else task_keys(ledger.experiment_of(name), ledger.data, follows_from)
            )
        return self._keys[name]

    def _is_packed(self, name: str) -> bool:
        return self._admission.pool is not None and self._admission.executor_of(name) == "pool"

    def awaits(self, name: str, running: Iterable[str]) -> bool:
        """Whether a trial that runs is learning what another would have to learn as well.

        One that would have workers of its own waits for nobody: they might be idle meanwhile.

        Args:
            name: The trial that might start.
            running: Those that run.

        Returns:
            Whether it waits for one of them.
        """
        if not self._is_packed(name):
            return False
        own, learnt = self.keys(name), self._learnt(name)
        return any(
            max(learnt, self._learnt(other)) < own.shared_with(self.keys(other))
            for other in running
            if other != name
        )

    def _learnt(self, name: str) -> int:
        ends = (index for index, share in self._ledger.trials[name].reports if share == DONE)
        return max(ends, default=-1) + 1

    def repeats(self, name: str) -> Trial | None:
        """The trial that has had all settings of another, its seed included.

        Args:
            name: The other one.

        Returns:
            One that is complete; or, where trials race, one that was stopped early.
        """
        trial = self._ledger.trials[name]
        if name == BASE_TRIAL or trial.of is not None:
            return None
        same = [
            other
            for other in self._ledger.searched()
            if other is not trial and other.overrides == trial.overrides
        ]
        stopped = (each for each in same if each.record.stop is not None)
        whole = (each for each in same if each.state == "COMPLETE")
        return next(whole, next(stopped, None))

    def note_learnt(self, name: str, report: StageReport) -> None:
        """Say, once, that a trial has learnt what another of this session had learnt before.

        Args:
            name: The trial.
            report: What it says.
        """
        if self._ledger.experiment.resources.facts.on_ray and not self._is_packed(name):
            return  # others of its kind may have learnt beside it
        keys = self.keys(name).learnt
        if report.fraction < DONE or not 0 <= report.task_index < len(keys):
            return
        first = self._learnt_by.setdefault(keys[report.task_index], name)
        if first != name and report.taken_from is None and not self._missed:
            self._missed = True
            self._ledger.observer.note(
                f"{name} has learnt {report.task} itself, though {first} had learnt it alike: the "
                "state was not kept, or is damaged"
            )
