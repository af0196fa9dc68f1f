"""Answering the rows of a file: the columns that are added, and words of progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.data.formats.placed_row import where_is
from orchestrator.records.mlflow.signature import probability_column
from orchestrator.serving import find
from orchestrator.serving.files import write_rows
from orchestrator.serving.questions import PREDICTION, read_rows, task_name
from orchestrator.spec.task_kinds import ChoiceTask, TaskSpec

if TYPE_CHECKING:
    from orchestrator.serving.predictor import Prediction, Predictor


BATCH_ROWS = 256
"""Rows answered between two words of progress."""


def predict_rows(
    predictor: Predictor,
    name: str,
    task: TaskSpec,
    asked: Sequence[Mapping[str, Any] | None],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """The columns that are added to each row.

    Args:
        predictor: The model.
        name: The task's name.
        task: The task.
        asked: The rows, as `read_rows` gives them; None gets no answer.
        progress: If given, called with how many rows are done, of how many.

    Yields:
        `prediction`, and `probability_<label>` for every label (for multiple choice
        `probability_<i>` for the row's choice i, counted from 0).
    """
    for start in range(0, len(asked), BATCH_ROWS):
        part = asked[start : start + BATCH_ROWS]
        questions = [row for row in part if row is not None]
        answers = iter(predictor.predict(name, questions) if questions else ())
        for row in part:
            yield {PREDICTION: None} if row is None else _columns(next(answers), task)
        if progress is not None:
            progress(start + len(part), len(asked))


def _columns(answer: Prediction, task: TaskSpec) -> dict[str, Any]:
    chances = answer.by_position
    labels = task.label_values or range(len(chances))
    named = zip((probability_column(str(label)) for label in labels), chances, strict=True)
    return {PREDICTION: answer.label, **{column: round(value, 6) for column, value in named}}


def added_columns(task: TaskSpec, asked: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """The names of all columns that `predict_rows` adds."""
    labels = task.label_values
    if isinstance(task, ChoiceTask) and not labels:
        most = max((len(task.names_of(row)) for row in asked if row), default=0)
        labels = [str(index) for index in range(most)]
    return [PREDICTION, *map(probability_column, labels)]


def telling(say: Callable[[str], None], *, every_s: float) -> Callable[[int, int], None]:
    """A progress function that says one line now and then, and one at the end.

    Args:
        say: Told each line.
        every_s: Least seconds between two lines.

    Returns:
        The function for `predict_rows`.
    """
    begun = time.monotonic()
    said = begun

    def progress(done: int, of: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done < of and now - said < every_s:
            return
        said = now
        rate = done / max(now - begun, 1e-9)
        say(f"{done:,} of {of:,} rows, {rate:,.1f} a second")

    return progress


PROGRESS_SECONDS = 5.0
"""Least seconds between two lines that say how far a file of predictions is."""


def answer_file(
    folder: Path,
    task: str | None,
    source: Path,
    output: Path,
    base: Path | None,
    *,
    progress: Callable[[str], None],
    note: Callable[[str], None],
) -> int:
    """Answer a file of rows into another file.

    Args:
        folder: The model folder.
        task: The task's name; None: the only one.
        source: The file with the rows.
        output: The file to write.
        base: Where the base is now, if it was moved since.
        progress: Told now and then how far it is.
        note: Told of rows that got no answer.

    Returns:
        The number of rows.
    """
    specs = find.asked_tasks(folder)
    name = task_name(specs, task)
    rows, asked = read_rows(source, name, specs[name])
    answers = predict_rows(
        find.load_folder(folder, base), name, specs[name], asked,
        progress=telling(progress, every_s=PROGRESS_SECONDS),
    )  # fmt: skip
    write_rows(output, rows, answers, added_columns(specs[name], asked))
    unanswered = [row for row, question in zip(rows, asked, strict=True) if question is None]
    if unanswered:
        note(
            f"{len(unanswered):,} of {len(rows):,} rows lack what the task asks for and got no "
            f"answer; the first is {where_is(unanswered[0])}."
        )
    return len(rows)
