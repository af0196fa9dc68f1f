"""Whose test scores are asked for, where their models lie, and the record of what was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.records.event_values import SideScores
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.trial_record import AS_IT_WAS, BASE_TRIAL
from orchestrator.spec.experiment import experiment_received
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.reading import Asked, reading
from orchestrator.sweep.scores.readings import Side


class ReadingSides:
    """The models that a reading of the test data scores, and its line in the journal."""

    def __init__(self, ledger: Ledger, kept: KeptWork) -> None:
        """Begin.

        Args:
            ledger: The sweep's.
            kept: The trials' adapters.
        """
        self._ledger, self._kept = ledger, kept

    def to_be_read(self, asked: Asked) -> dict[str, Side]:
        """Say what is to be scored.

        Args:
            asked: For whom.

        Returns:
            Trials and the base, by name, without those that an earlier reading has scored.
        """
        ledger, known = self._ledger, self._read_before()
        names = [n for n in (BASE_TRIAL, asked.pick, asked.runner_up) if n and n not in known]
        for name in names:
            if name != BASE_TRIAL:
                self._kept.set_other_adapter_aside(name)
        before = self._as_it_was(asked.pick) if AS_IT_WAS not in known else {}
        return before | {
            name: Side(
                # Without what only the driver needs, such as where MLflow records.
                experiment_received(ledger.experiment_of(name).for_workers()),
                None if name == BASE_TRIAL else ledger.folder.adapter(name),
            )
            for name in names
        }

    def record(self, asked: Asked, sides: Mapping[str, dict[str, Any]]) -> None:
        """Journal a reading of the test data.

        Args:
            asked: For whom it was made.
            sides: What was found of `to_be_read`, by name, see `readings.read_sides`.
        """
        ledger = self._ledger
        wanted = {BASE_TRIAL, asked.pick, asked.runner_up, AS_IT_WAS}
        unread = {name: side["unread"] for name, side in sides.items() if "unread" in side}
        read = {n: SideScores.from_document(s) for n, s in sides.items() if n not in unread}
        everything = {**self._read_before(), **read}
        ledger.record(
            reading(
                asked,
                {n: side for n, side in everything.items() if n in wanted and n not in unread},
                {name: why for name, why in unread.items() if name in wanted},
                [ledger.data.tasks[name] for name in ledger.experiment.tasks],
                number=ledger.state.next_reading,
                extends=ledger.experiment.extends,
            )
        )

    def _as_it_was(self, pick: str) -> dict[str, Side]:
        """The trial that the sweep goes on from, from the adapter that a trial of its own keeps."""
        ledger = self._ledger
        extends = ledger.experiment.extends
        if extends is None:
            return {}
        kept = ledger.state.trial(pick).task_adapters.get(extends.learnt)
        place = SweepFolder(ledger.folder.path.parent / extends.sweep).adapter(extends.trial)
        experiment = experiment_received(ledger.experiment_of(pick).for_workers())
        return {
            AS_IT_WAS: Side(experiment, place if kept is None else ledger.folder.within(kept[0]))
        }

    def _read_before(self) -> dict[str, SideScores]:
        """The test scores that earlier readings have journalled, by trial."""
        return {n: side for read in self._ledger.state.readings for n, side in read.sides.items()}
