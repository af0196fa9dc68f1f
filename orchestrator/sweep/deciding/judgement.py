"""How a sweep concludes: its front and champion, and what the test data say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.records.event_values import SideScores
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.trial_record import AS_IT_WAS, BASE_TRIAL
from orchestrator.spec.experiment import experiment_received
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.measuring import Measuring
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.extending.comparison import extension_measured
from orchestrator.sweep.scores.readings import Side
from orchestrator.sweep.verdict import Judged, judge, reading


class Judgement:
    """Makes the verdict, says whose test scores it asks for, and records them."""

    def __init__(
        self, ledger: Ledger, proposals: Proposals, kept: KeptWork, budget: Budget
    ) -> None:
        """Begin.

        Args:
            ledger: The sweep's.
            proposals: Knows the finalists.
            kept: The trials' adapters.
            budget: What the sweep may spend.
        """
        self._ledger, self._proposals, self._kept = ledger, proposals, kept
        self._budget = budget
        self._measuring = Measuring(ledger)

    def conclude(self) -> None:
        """Name the front and the champion, unless that is done.

        Trials are judged on all examples. Where the search has scored fewer, those of which the
        rest was never scored count as looked at and are not compared with the others.
        """
        ledger = self._ledger
        if ledger.state.verdict is not None:
            return
        eligible = ledger.eligible()
        whole = [trial for trial in eligible if self._measuring.is_on_all(trial)]
        tried = {t.name: self._judged(t) for t in whole}
        finalists = {
            t.name: self._repeats(t) for t in self._proposals.finalists() if t.name in tried
        }
        stopped = sum(trial.state == "STOPPED" for trial in ledger.searched())
        others = stopped + len(eligible) - len(whole)
        verdict = judge(tried, finalists, ledger.controls(), ledger.experiment, others=others)
        if self._budget.ended:
            words = self._budget.words(self._proposals.left_out)
            reason = f"{verdict.reason.rstrip('.')}. {words}"
            verdict = replace(verdict, reason=reason, budget=dict(self._budget.allowed))
        extension = extension_measured(ledger)
        if extension is not None:
            ledger.record(extension)
        ledger.record(verdict)
        self._kept.remove_large({*verdict.front, *filter(None, [verdict.champion])})

    def contenders(self) -> list[Trial]:
        """The trials whose whole matrix the verdict stands on, in the order of their proposal.

        Returns:
            By what the search has scored: the front, who would be champion and runner-up, and the
            finalists. Empty once there is a verdict.
        """
        ledger = self._ledger
        if ledger.state.verdict is not None or ledger.base_report() is None:
            return []
        eligible, counts = ledger.eligible(), ledger.screened()
        tried = {
            t.name: Judged(t.name, t.searched_measures or {}, self._measuring.examples(t, counts))
            for t in eligible
        }
        first = judge(tried, {}, ledger.controls(counts), ledger.experiment)
        chosen = {*first.front, first.champion, first.runner_up}
        chosen |= {trial.name for trial in self._proposals.finalists()}
        return [trial for trial in eligible if trial.name in chosen]

    def to_be_read(self) -> dict[str, Side]:
        """Say whose test scores the verdict asks for.

        Returns:
            Trials and the base, by name, without those that an earlier reading has scored.
        """
        ledger, verdict = self._ledger, self._ledger.state.verdict
        if verdict is None or not ledger.state.reading_due:
            return {}
        known = self._read_before()
        names = (BASE_TRIAL, verdict.champion, verdict.runner_up)
        for name in names[1:]:
            if name is not None and name not in known:
                self._kept.set_other_adapter_aside(name)
        before = self._as_it_was() if AS_IT_WAS not in known else {}
        return before | {
            name: Side(
                # Without what only the driver needs, such as where MLflow records.
                experiment_received(ledger.experiment_of(name).for_workers()),
                None if name == BASE_TRIAL else ledger.folder.adapter(name),
            )
            for name in names
            if name is not None and name not in known
        }

    def test_read(self, sides: Mapping[str, dict[str, Any]]) -> None:
        """Journal a reading of the test data.

        Args:
            sides: What was found of `to_be_read`, by name, see `readings.read_sides`.
        """
        ledger, verdict = self._ledger, self._ledger.state.verdict
        assert verdict is not None, "test data are read for a verdict"
        wanted = {BASE_TRIAL, verdict.champion, verdict.runner_up, AS_IT_WAS}
        unread = {name: side["unread"] for name, side in sides.items() if "unread" in side}
        read = {n: SideScores.from_document(s) for n, s in sides.items() if n not in unread}
        everything = {**self._read_before(), **read}
        ledger.record(
            reading(
                verdict,
                {n: side for n, side in everything.items() if n in wanted and n not in unread},
                {name: why for name, why in unread.items() if name in wanted},
                [ledger.data.tasks[name] for name in ledger.experiment.tasks],
                number=1 + sum(bool(read.reading) for read in ledger.state.readings),
                extends=ledger.experiment.extends,
            )
        )

    def _as_it_was(self) -> dict[str, Side]:
        """The trial that the sweep goes on from, from the adapter that a trial of its own keeps."""
        ledger = self._ledger
        extends, verdict = ledger.experiment.extends, ledger.state.verdict
        if extends is None or verdict is None or verdict.champion is None:
            return {}
        kept = ledger.state.trial(verdict.champion).task_adapters.get(extends.learnt)
        place = SweepFolder(ledger.folder.path.parent / extends.sweep).adapter(extends.trial)
        experiment = experiment_received(ledger.experiment_of(verdict.champion).for_workers())
        return {
            AS_IT_WAS: Side(experiment, place if kept is None else ledger.folder.within(kept[0]))
        }

    def _read_before(self) -> dict[str, SideScores]:
        """The test scores that earlier readings have journalled, by trial."""
        return {n: side for read in self._ledger.state.readings for n, side in read.sides.items()}

    def _judged(self, trial: Trial) -> Judged:
        examples = self._measuring.examples(trial, self._ledger.every_example())
        return Judged(trial.name, trial.measures or {}, examples)

    def _repeats(self, finalist: Trial) -> list[Judged]:
        """A finalist's repetitions with seeds that had no part in the choice."""
        used = self._ledger.searched_seeds()
        return [
            self._judged(trial)
            for trial in self._ledger.trials.values()
            if trial.of == finalist.name
            and trial.state == "COMPLETE"
            and self._ledger.seed_of(trial) not in used
        ]
