"""Scores of a task from log-probabilities and written texts. It does not know who computes them.

References:
    Length normalisation by bytes follows the convention of multiple-choice evaluation by
    likelihood (Brown et al. 2020, Sec. 2.4, arXiv 2005.14165, normalise by tokens; by bytes it does
    not depend on the tokenizer).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from orchestrator.data.items import Item, Question, Tokens, Window, Writing
from orchestrator.data.model_inputs import Scored, pick_owners, scored_rows
from orchestrator.loop.text_metrics import text_metrics
from orchestrator.spec.task_kinds import GenerationTask, TaskMetric, TaskSpec


class DivergedError(RuntimeError):
    """A loss, gradient or score that is not finite, or a loss that exploded."""


class Answers(Protocol):
    """Who answers: an engine around a model."""

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row."""
        ...

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> Sequence[str | None]:
        """What the model writes after each prompt, greedily, up to the first of `task.stop`.

        None where its scores of the next token were no numbers.
        """
        ...


@dataclass(frozen=True)
class Score:
    """What one task scored."""

    value: float
    """The headline score in [0, 1], larger is better: what stands in the accuracy matrix.

    For language modelling it is the geometric mean probability of a token, 1 / perplexity.
    """
    metrics: dict[str, float] = field(default_factory=dict)
    """`accuracy` and `accuracy_norm`, or `cross_entropy` (nats per token), `perplexity` and
    `bits_per_byte`."""
    per_example: tuple[float, ...] = ()
    """Score of each example, in order, whose mean is `value`: 0 or 1, a text's metric, or what a
    window of running text adds to the score (see `score_of`)."""


def rows_of(items: Sequence[Item]) -> list[Scored]:
    """The model inputs whose log-probabilities a score is made from.

    Args:
        items: Questions, prompts to write after, or windows of text; all of one kind.

    Returns:
        The rows of each item after the other; none of prompts.
    """
    found = (item for item in items if isinstance(item, Question | Window))
    return [row for item in found for row in scored_rows(item)]


def prompts_of(items: Sequence[Item]) -> list[Tokens]:
    """The prompts after which texts are written; none of other items."""
    return [item.prompt for item in items if isinstance(item, Writing)]


def question_log_likelihoods(
    questions: Sequence[Question], values: Iterable[Sequence[float]]
) -> list[list[float]]:
    """The log-likelihood of each continuation of each question, in nats.

    Args:
        questions: The questions.
        values: The log-probability of every pick of every row of `rows_of(questions)`, in nats.

    Returns:
        Per question, one sum of token log-probabilities per continuation.
    """
    picks = chain.from_iterable(values)
    result: list[list[float]] = []
    for question in questions:
        sums = [0.0] * len(question.continuations)
        for owner in pick_owners(question):
            sums[owner] += next(picks)
        result.append(sums)
    return result


def score(items: Sequence[Item], task: TaskSpec, answers: Answers) -> Score:
    """Score a task.

    Args:
        items: Questions, prompts to write after, or windows of text; all of one kind.
        task: Names the metric that is the headline.
        answers: Who answers.

    Returns:
        The score.

    Raises:
        ValueError: If there is nothing to score.
        DivergedError: If what the score would be made from is not finite.
    """
    if isinstance(task, GenerationTask):
        return score_of_texts(items, task, answers.write(prompts_of(items), task))
    return score_of(items, task, answers.log_probabilities(rows_of(items)))


def score_of(items: Sequence[Item], task: TaskSpec, values: Sequence[Sequence[float]]) -> Score:
    """Score a task from log-probabilities.

    The score of running text is exp(-H), with H the nats per token over all windows: no mean over
    windows. So that its bootstrap is one of the same quantity, each window stands with its part in
    the score's expansion to first order, exp(-H) (1 + (H n_w - nats_w) / mean n), whose mean over
    windows is exp(-H) itself (the infinitesimal jackknife; Jaeckel 1972).

    Args:
        items: Questions or windows of text; all of one kind.
        task: Names the metric that is the headline.
        values: The log-probability of every pick of every row of `rows_of(items)`, in nats.

    Returns:
        The score.

    Raises:
        ValueError: If there is nothing to score.
        DivergedError: If a log-probability is not finite.
    """
    _check_items(items)
    for value in chain.from_iterable(values):
        if not math.isfinite(value):
            raise DivergedError(_not_finite(f"a log-probability is {value}", task))
    windows = [item for item in items if isinstance(item, Window)]
    if windows:
        return _score_text(windows, values)
    questions = [item for item in items if isinstance(item, Question)]
    likelihoods = question_log_likelihoods(questions, values)
    plain = _right(questions, likelihoods, "accuracy")
    normalised = _right(questions, likelihoods, "accuracy_norm")
    metrics = {
        "accuracy": sum(plain) / len(plain),
        "accuracy_norm": sum(normalised) / len(normalised),
    }
    chosen = normalised if task.metric == "accuracy_norm" else plain
    return Score(metrics[task.metric], metrics, tuple(chosen))


def score_of_texts(
    items: Sequence[Item], task: GenerationTask, texts: Sequence[str | None]
) -> Score:
    """Score a task from written texts.

    Args:
        items: Prompts to write after, with references.
        task: Names the metric that is the headline.
        texts: What was written after each of `prompts_of(items)`; None where scores of the next
            token were no numbers.

    Returns:
        The score.

    Raises:
        ValueError: If there is nothing to score.
        DivergedError: If a text is None.
    """
    _check_items(items)
    written = [text for text in texts if text is not None]
    if len(written) < len(texts):
        raise DivergedError(_not_finite("scores of the next token are no numbers", task))
    references = [item.reference for item in items if isinstance(item, Writing)]
    metrics, each = text_metrics(written, references, task)
    return Score(sum(each) / len(each), metrics, tuple(each))


def _check_items(items: Sequence[Item]) -> None:
    if not items:
        raise ValueError("There is nothing to score: `items` is empty.")


def _not_finite(what: str, task: TaskSpec) -> str:
    return (
        f"{what} when task {task.name!r} is scored: what the weights compute is not finite any "
        "more; lower the learning rate"
    )


def answer_scores(
    question: Question, likelihoods: Sequence[float], metric: TaskMetric
) -> list[float]:
    """What decides between the continuations of a question; the largest is the answer.

    Args:
        question: The question.
        likelihoods: The log-likelihood of each continuation, in nats.
        metric: `accuracy` takes them as they are. `accuracy_norm` divides each by the bytes of its
            continuation, and multiplies by the mean number of bytes: what each would have if it
            were as long as all of them are on average.

    Returns:
        One number per continuation, in nats.
    """
    if metric == "accuracy":
        return list(likelihoods)
    sizes = [max(size, 1) for size in question.lengths]
    mean = sum(sizes) / len(sizes)
    return [value / size * mean for value, size in zip(likelihoods, sizes, strict=True)]


def _right(
    questions: Sequence[Question], likelihoods: Sequence[Sequence[float]], metric: TaskMetric
) -> list[float]:
    """1 for each question whose answer is the right one, else 0."""
    return [
        float(best(answer_scores(question, values, metric)) == question.answer)
        for question, values in zip(questions, likelihoods, strict=True)
    ]


def best(values: Sequence[float]) -> int:
    """The index of the largest value, the first of equals."""
    return max(range(len(values)), key=lambda index: values[index])


def _score_text(windows: Sequence[Window], rows: Sequence[Sequence[float]]) -> Score:
    nats = -sum(sum(values) for values in rows)
    count = sum(len(values) for values in rows)
    num_bytes = sum(window.num_bytes for window in windows)
    cross_entropy = nats / count
    value, mean_count = math.exp(-cross_entropy), count / len(windows)
    return Score(
        value,
        {
            "cross_entropy": cross_entropy,
            "perplexity": math.exp(min(cross_entropy, 700.0)),
            "bits_per_byte": nats / math.log(2) / max(num_bytes, 1),
        },
        tuple(
            value * (1.0 + (cross_entropy * len(values) + sum(values)) / mean_count)
            for values in rows
        ),
    )
