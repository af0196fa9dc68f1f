"""A model's tasks as questions to it, and what it computes as answers, whoever computes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.encoding import encode_question
from orchestrator.data.items import Question, Tokens, token_ids
from orchestrator.data.prompt_tokens import encode_prompt, refuse_unknown_ids
from orchestrator.loop.scoring import answer_scores, best, question_log_likelihoods
from orchestrator.spec.task_kinds import ChoiceTask, GenerationTask, PromptedTask, TaskSpec
from orchestrator.system.strict_json import half_character
from orchestrator.system.user_error import UserError
from orchestrator.system.wording import suggestion


class PredictionError(UserError, ValueError):
    """A prediction that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one row."""

    label: str
    """The label value or choice that the task's metric takes for the answer, or the text that was
    written."""
    probabilities: dict[str, float]
    """Of each label value or choice, largest for `label`; they sum to 1 where all read differently.
    Empty for written text."""
    by_position: tuple[float, ...] = ()
    """The same in the order of the labels or choices; choices that read alike stand here apart."""

    @property
    def probability(self) -> float | None:
        """That of the answer; None for written text."""
        return max(self.by_position, default=None)


@dataclass(frozen=True)
class Asking:
    """The tasks that a model can be asked, as its tokenizer writes them."""

    specs: Mapping[str, TaskSpec]
    tokenizer: Any
    max_length: int
    """Tokens per question, as in training."""
    vocabulary: int | None
    """Rows of the base's embedding; None where they are not known."""
    has_heads: bool

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that can be asked."""
        return [n for n, s in self.specs.items() if isinstance(s, PromptedTask)]

    def task(self, name: str, rows: Sequence[Mapping[str, Any]]) -> ChoiceTask | GenerationTask:
        """A task that some rows can be asked of.

        Args:
            name: One of `tasks`.
            rows: The rows.

        Returns:
            The task.

        Raises:
            PredictionError: If it is not known, needs a head that is not there, or a row holds a
                text that no encoding can write.
        """
        spec = self.specs.get(name)
        if not isinstance(spec, PromptedTask):
            raise PredictionError(
                f"This model has no task {name!r} to be asked.{suggestion(name, self.tasks)} "
                f"Its tasks: {', '.join(self.tasks)}."
            )
        for number, row in enumerate(rows, start=1):
            if (place := half_character(row)) is not None:
                raise PredictionError(
                    f"Row {number}: `{place}` holds half of a character (one of two surrogates), "
                    "as when a text is cut within an emoji. Cut texts between characters."
                )
        if isinstance(spec, GenerationTask):
            return spec
        assert isinstance(spec, ChoiceTask), spec.kind
        if spec.has_head and not self.has_heads:
            raise PredictionError(
                f"The task {name!r} is answered by a linear head, and the untouched base has none."
            )
        return spec

    def prompts(self, task: GenerationTask, rows: Sequence[Mapping[str, Any]]) -> list[Tokens]:
        """The prompts after which a task's texts are written; a `DataError` if one cannot be."""
        found = [encode_prompt(task, dict(row), self.tokenizer, self.max_length) for row in rows]
        self._refuse_unknown_ids(task.name, (i for prompt in found for i in prompt))
        return found

    def texts(self, name: str, written: Sequence[str | None]) -> list[Prediction]:
        """The answers of a task that writes texts.

        Args:
            name: The task.
            written: The texts; None where the scores of a next token were no numbers.

        Returns:
            One for each.

        Raises:
            PredictionError: If one is None.
        """
        texts = [text for text in written if text is not None]
        if len(texts) < len(written):
            raise PredictionError(
                f"What this model computes for task {name!r} is not finite, so nothing can be "
                "written. Its weights are damaged, or its training had diverged."
            )
        return [Prediction(text, {}) for text in texts]

    def questions(self, task: ChoiceTask, rows: Sequence[Mapping[str, Any]]) -> list[Question]:
        """The questions about some rows, whose labels are not needed."""
        found = [
            encode_question(task, task.with_any_answer(dict(row)), self.tokenizer, self.max_length)
            for row in rows
        ]
        self._refuse_unknown_ids(task.name, (i for asked in found for i in token_ids(asked)))
        return found

    def answers(
        self,
        task: ChoiceTask,
        rows: Sequence[Mapping[str, Any]],
        questions: Sequence[Question],
        values: Iterable[Sequence[float]],
    ) -> list[Prediction]:
        """The answers that log-probabilities make, by the metric that the task is scored by.

        Args:
            task: The task.
            rows: What was asked.
            questions: As `questions` gave them.
            values: The log-probability of every pick of every row of `rows_of(questions)`, in nats.

        Returns:
            One prediction per row.

        Raises:
            PredictionError: If a log-likelihood is no number.
        """
        likelihoods = question_log_likelihoods(questions, values)
        if not all(math.isfinite(value) for one in likelihoods for value in one):
            raise PredictionError(
                f"What this model computes for the task {task.name!r} is not finite, so it answers "
                "nothing. Its weights are damaged or have diverged."
            )
        return [
            _prediction(task, row, answer_scores(question, one, task.metric))
            for row, question, one in zip(rows, questions, likelihoods, strict=True)
        ]

    def _refuse_unknown_ids(self, task: str, ids: Iterable[int]) -> None:
        refuse_unknown_ids(task, ids, self.tokenizer, self.vocabulary)


def _prediction(spec: ChoiceTask, row: Mapping[str, Any], scores: Sequence[float]) -> Prediction:
    names = spec.names_of(dict(row))
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    by_position = tuple(weight / sum(weights) for weight in weights)
    probabilities = dict.fromkeys(names, 0.0)
    for name, probability in zip(names, by_position, strict=True):
        probabilities[name] = max(probabilities[name], probability)
    return Prediction(names[best(scores)], probabilities, by_position)
