"""Rows of a task, answered with labels and probabilities as `predict` answers them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.items import Question
from orchestrator.data.model_inputs import Scored
from orchestrator.data.row_values import question_columns
from orchestrator.loop.scoring import rows_of
from orchestrator.serving.asking import Prediction, PredictionError
from orchestrator.serving.server.bodies import ClassifyBody
from orchestrator.serving.server.jobs import Job, JudgeJob, Told, WriteJob
from orchestrator.serving.server.orders import Orders
from orchestrator.serving.server.problems import Problem, ProblemError, RefusedError
from orchestrator.serving.server.served import ServedModel
from orchestrator.spec.task_kinds import ChoiceTask, GenerationTask

News = Callable[[Callable[[], None]], object]
"""Lets the event loop's thread call something."""


class Judgement:
    """One request for labels: its jobs, and what becomes of them."""

    def __init__(self, orders: Orders, body: ClassifyBody, news: News) -> None:
        """Read a request; takes as long as its rows take to be tokenised.

        Args:
            orders: The models, and their limits.
            body: The request.
            news: How the engine's thread reaches the one that waits.

        Raises:
            RefusedError: It cannot be carried out.
        """
        self._model = orders.model(body.model)
        self._orders, self._news = orders, news
        if len(body.rows) > orders.limits.asked_rows:
            raise RefusedError(f"`rows` has at most {orders.limits.asked_rows} rows.", "rows")
        names = self._model.asking.tasks
        name = body.task if body.task is not None or len(names) != 1 else names[0]
        if name is None:
            raise RefusedError(f"`task` should be one of {', '.join(names)}.", "task")
        try:
            self._task = self._model.asking.task(name, body.rows)
            self._rows = [_row(self._task, row, n) for n, row in enumerate(body.rows, start=1)]
            self._questions: list[Question] = []
            if isinstance(self._task, GenerationTask):
                self.jobs: list[Job] = list(self._writing(orders, self._task))
            else:
                self._questions = self._model.asking.questions(self._task, self._rows)
                self.jobs = list(self._reading(orders))
        except (DataError, PredictionError) as error:
            raise RefusedError(str(error), "rows" if name in names else "task") from None
        self._done: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    @property
    def task(self) -> str:
        """The task's name."""
        return self._task.name

    @property
    def tokens(self) -> int:
        """How many are read."""
        return sum(
            len(job.prompt) if isinstance(job, WriteJob) else _tokens(job.rows)
            for job in self.jobs
            if isinstance(job, WriteJob | JudgeJob)
        )

    async def answers(self) -> list[Prediction]:
        """The answers, once the engine has done the jobs.

        Returns:
            One for each row.

        Raises:
            ProblemError: It could not, or what it has computed is not finite.
        """
        found: dict[int, Any] = {}
        while len(found) < len(self.jobs):
            index, told = await self._done.get()
            problem = told.problem if isinstance(told, Told) else told
            if isinstance(problem, Problem):
                raise ProblemError(problem)
            found[index] = told
        parts = [found[index] for index in range(len(self.jobs))]
        try:
            if isinstance(self._task, GenerationTask):
                texts = [told.text.strip() for told in parts]
                return self._model.asking.texts(self._task.name, texts)
            assert isinstance(self._task, ChoiceTask)
            values = [value for part in parts for value in part]
            return self._model.asking.answers(self._task, self._rows, self._questions, values)
        except PredictionError as error:
            raise ProblemError(Problem(500, str(error), "model_failure")) from None

    def _put(self, index: int, found: Any) -> None:
        self._news(lambda: self._done.put_nowait((index, found)))

    def _writing(self, orders: Orders, task: GenerationTask) -> list[WriteJob]:
        if (why := orders.base.unwritten) is not None:
            raise RefusedError(
                f"No texts are written with this base: {why}.", "task", "not_supported"
            )
        number = next(orders.numbers)
        prompts = self._model.asking.prompts(task, self._rows)
        return [
            WriteJob(
                request=number,
                model=self._model.name,
                slot=self._model.slot,
                deadline=orders.deadline(),
                prompt=prompt,
                max_tokens=task.max_new_tokens,
                tell=lambda told, index=index: self._put(index, told),
                stop=tuple(task.stop),
                ends=orders.base.task_ends,
                stripped=True,
            )
            for index, prompt in enumerate(prompts)
        ]

    def _reading(self, orders: Orders) -> list[JudgeJob]:
        """The rows of all questions in parts of about a pass, between which texts are written."""
        rows = self._model.rows(rows_of(self._questions))
        parts: list[list[Scored]] = []
        for row in rows:
            if not parts or _tokens(parts[-1]) + len(row.tokens) > orders.limits.pass_tokens:
                parts.append([])
            parts[-1].append(row)
        number = next(orders.numbers)
        return [
            JudgeJob(
                request=number,
                model=self._model.name,
                slot=self._model.slot,
                deadline=orders.deadline(),
                rows=part,
                deliver=lambda found, index=index: self._put(index, found),
            )
            for index, part in enumerate(parts)
        ]


def _tokens(rows: Sequence[Scored]) -> int:
    return sum(len(row.tokens) for row in rows)


def _row(task: ChoiceTask | GenerationTask, row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row with the columns that the task asks."""
    wanted = question_columns(task)
    if missing := [column for column in wanted if row.get(column) is None]:
        raise RefusedError(
            f"Row {number} lacks {missing[0]!r}: the task {task.name!r} reads the columns "
            f"{', '.join(wanted)}.", "rows",
        )  # fmt: skip
    for column in task.choice_columns:
        choices = row[column]
        if not isinstance(choices, list) or len(choices) < 2:
            raise RefusedError(f"Row {number}: `{column}` should be a list of two or more.", "rows")
    return {column: row[column] for column in wanted}


def judged(model: ServedModel, task: str, answers: Sequence[Prediction]) -> dict[str, Any]:
    """The answer to a request for labels."""
    data = [
        {
            "index": index,
            "label": answer.label,
            "probability": answer.probability,
            "probabilities": answer.probabilities,
            "by_position": list(answer.by_position),
        }
        for index, answer in enumerate(answers)
    ]
    return {"object": "classification", "model": model.name, "task": task, "data": data}
