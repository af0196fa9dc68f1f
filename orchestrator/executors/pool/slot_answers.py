"""Answers the learning generators of a pack's slots, each up to its next pass of the base."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.executors.pool.failures import Failure, SharedFailureError
from orchestrator.executors.pool.scoring_passes import ScoringPasses
from orchestrator.executors.pool.shared_passes import SharedPasses
from orchestrator.executors.pool.slots import Ended, Slot, SlotTable
from orchestrator.loop.requests import BeginTask, FitHeadOnly, Report, Taken, TrainStep
from orchestrator.measures.accuracy_matrix import AccuracyMatrix


class SlotAnswers:
    """Gives generators their answers; whatever that raises ends the one trial."""

    def __init__(self, passes: SharedPasses, scoring: ScoringPasses, slots: SlotTable) -> None:
        """Take a pack.

        Args:
            passes: The base and its pack.
            scoring: Computes what is to be scored.
            slots: Which trials there are.
        """
        self._passes = passes
        self._scoring = scoring
        self._slots = slots

    def learnt(self, slot: Slot, loss: float | Failure) -> list[Ended]:
        """Give a slot the loss of its step; see `advance`."""
        if not isinstance(loss, Failure):
            noted = self._passes.attempt(partial(_note_step, slot, loss))
            loss = noted if isinstance(noted, Failure) else loss
        if isinstance(loss, Failure):
            return [self._slots.end(slot, None, loss)]
        return self.advance(slot, loss)

    def scored(self, slot: Slot, values: list[list[float]] | Failure) -> list[Ended]:
        """Give a slot the score that its values make; see `advance`."""
        answer: Any = values
        if not isinstance(values, Failure):
            answer = self._passes.attempt(partial(self._scoring.answer, slot, values))
        if isinstance(answer, Failure):
            return [self._slots.end(slot, None, answer)]
        return self.advance(slot, answer)

    def advance(self, slot: Slot, answer: Any) -> list[Ended]:
        """Give a generator its answer, and go on to what needs a pass of the pack.

        Args:
            slot: Whose.
            answer: The answer; None where there is none to be given.

        Returns:
            The trial itself if it has ended, else nothing.
        """
        found = self._passes.attempt(partial(self._ask, slot, answer))
        if not self._slots.holds(slot) or found is None:
            return []
        if isinstance(found, Failure):
            return [self._slots.end(slot, None, found)]
        return [self._slots.end(slot, found)]

    def _ask(self, slot: Slot, answer: Any) -> AccuracyMatrix | None:
        """Go on until the pack is needed (None), or the trial is done (its matrix)."""
        while (finished := slot.run.advance(answer)) is None:
            # Within its own report a trial may be dropped.
            if not self._answered(slot) or not self._slots.holds(slot):
                return None
            answer = self._taken_over(slot)
        return finished

    @staticmethod
    def _taken_over(slot: Slot) -> Taken | None:
        """What need not be learnt of the task that has just begun, if one has."""
        if not isinstance(slot.run.request, BeginTask):
            return None
        taken = slot.take_over(slot.run.request.index)
        if taken is not None:
            slot.run.taken_over(taken)
            slot.seconds = taken.seconds
        return taken

    def _answered(self, slot: Slot) -> bool:
        """Do what a request asks that needs no pass of the pack; whether that was all."""
        match slot.run.request:
            case Report() as asked:
                report, matrix = slot.run.report(asked, seconds=round(slot.seconds, 3))
                slot.state = slot.state.after(report, matrix)
                self._report(partial(slot.on_report, report, matrix))
                return True
            case FitHeadOnly():
                raise ValueError("Row 0 is measured on the bare base, not in a pack.")
            case _:
                return slot.run.answered_by(slot.engine)

    def _report(self, report: Callable[[], None]) -> None:
        """Make a report; that it failed on the first worker, who writes, is raised on all."""
        if self._passes.workers.alone:
            report()
            return
        found = self._passes.workers.broadcast(self._passes.attempt(report))
        if isinstance(found, Failure):
            raise SharedFailureError(found)


def _note_step(slot: Slot, loss: float) -> None:
    step = slot.run.request
    if isinstance(step, TrainStep):
        slot.run.trained(step, loss, slot.engine.learning_rate_at(step.step))
        slot.engine.after_step()
