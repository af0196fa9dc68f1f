"""Scores of a task from log-probabilities. Pure: it does not know who computes them.

References:
    Length normalisation by bytes follows the convention of multiple-choice evaluation by
    likelihood (Brown et al. 2020, Sec. 2.4, arXiv 2005.14165, normalise by tokens; by bytes it does
    not depend on the tokenizer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.batches import Item, Question, Scored, Window, pick_owners, scored_rows

LogProbabilities: TypeAlias = Callable[[Sequence[Scored]], list[list[float]]]
"""Gives, for each row, the log-probability of each of its picks."""


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
    """Score of each example, in order: 0 or 1, or a window's mean token probability."""


def question_log_likelihoods(
    questions: Sequence[Question], log_probabilities: LogProbabilities
) -> list[list[float]]:
    """The log-likelihood of each continuation of each question, in nats.

    Args:
        questions: The questions.
        log_probabilities: Who answers.

    Returns:
        Per question, one sum of token log-probabilities per continuation.
    """
    rows = [scored_rows(question) for question in questions]
    answers = iter(log_probabilities([row for group in rows for row in group]))
    result: list[list[float]] = []
    for question, group in zip(questions, rows, strict=True):
        picks = [value for _ in group for value in next(answers)]
        sums = [0.0] * len(question.continuations)
        for owner, value in zip(pick_owners(question), picks, strict=True):
            sums[owner] += value
        result.append(sums)
    return result


def score(items: Sequence[Item], metric: str, log_probabilities: LogProbabilities) -> Score:
    """Score a task.

    Args:
        items: Questions, or windows of text.
        metric: `accuracy`, `accuracy_norm` or `perplexity`: the headline.
        log_probabilities: Who answers.

    Returns:
        The score.

    Raises:
        ValueError: If there is nothing to score.
    """
    if not items:
        raise ValueError("There is nothing to score: `items` is empty.")
    windows = [item for item in items if isinstance(item, Window)]
    if windows:
        return _score_text(windows, log_probabilities)
    questions = [item for item in items if isinstance(item, Question)]
    likelihoods = question_log_likelihoods(questions, log_probabilities)
    plain = [
        float(_best(values) == q.answer) for q, values in zip(questions, likelihoods, strict=True)
    ]
    normalised = [
        float(_best([v / max(n, 1) for v, n in zip(values, q.lengths, strict=True)]) == q.answer)
        for q, values in zip(questions, likelihoods, strict=True)
    ]
    metrics = {
        "accuracy": sum(plain) / len(plain),
        "accuracy_norm": sum(normalised) / len(normalised),
    }
    chosen = normalised if metric == "accuracy_norm" else plain
    return Score(metrics[metric], metrics, tuple(chosen))


def _best(values: Sequence[float]) -> int:
    """The index of the largest value, the first of equals."""
    return max(range(len(values)), key=lambda index: values[index])


def _score_text(windows: Sequence[Window], log_probabilities: LogProbabilities) -> Score:
    answers = log_probabilities([row for window in windows for row in scored_rows(window)])
    nats = -sum(sum(values) for values in answers)
    count = sum(len(values) for values in answers)
    num_bytes = sum(window.num_bytes for window in windows)
    cross_entropy = nats / count
    return Score(
        math.exp(-cross_entropy),
        {
            "cross_entropy": cross_entropy,
            "perplexity": math.exp(min(cross_entropy, 700.0)),
            "bits_per_byte": nats / math.log(2) / max(num_bytes, 1),
        },
        tuple(math.exp(sum(values) / len(values)) for values in answers),
    )
