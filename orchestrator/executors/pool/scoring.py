"""The rows that a score of a packed trial needs, and the score once they were computed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.row_batches import scored_example
from orchestrator.loop.requests import Evaluate, HeldOutLoss
from orchestrator.loop.scoring import score
from orchestrator.spec.task_kinds import GenerationTask


class _Asked(Exception):  # noqa: N818 (nothing went wrong)
    """Carries the rows that a score is read from."""

    def __init__(self, rows: Sequence[Scored]) -> None:
        super().__init__()
        self.rows = list(rows)


class _Asking:
    """Answers nothing: tells which rows a score needs."""

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        raise _Asked(rows)

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str | None]:
        del prompts, task
        raise _Asked([])


@dataclass(frozen=True)
class KnownAnswers:
    """Answers with what was computed."""

    values: list[list[float]]
    generate: Callable[[Sequence[Tokens], GenerationTask], list[str | None]]

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row."""
        del rows
        return self.values

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str | None]:
        """What the model writes after each prompt."""
        return self.generate(prompts, task)


def asked_rows(request: Evaluate | HeldOutLoss) -> list[Scored]:
    """The rows whose log-probabilities a request needs; none where texts are written."""
    if isinstance(request, HeldOutLoss):
        return [scored_example(example) for example in request.examples]
    try:
        score(request.task.validation[: request.limit], request.task.spec, _Asking())
    except _Asked as asked:
        return asked.rows
    return []
