"""Scores of a task from log-probabilities and written texts. It does not know who computes them.

References:
    BLEU: Papineni et al. (2002), as signed by sacreBLEU (Post 2018, arXiv 1804.08771).
    ROUGE-L: Lin (2004), F1 with stemming, as in the package rouge-score.
    Final number of GSM8K: Cobbe et al. (2021), arXiv 2110.14168.
    Length normalisation by bytes follows the convention of multiple-choice evaluation by
    likelihood (Brown et al. 2020, Sec. 2.4, arXiv 2005.14165, normalise by tokens; by bytes it does
    not depend on the tokenizer).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol, TypeAlias

from orchestrator.data.items import Item, Question, Tokens, Window, Writing
from orchestrator.data.model_inputs import Scored, pick_owners, scored_rows
from orchestrator.spec.task_kinds import GenerationTask, TaskMetric, TaskSpec

LogProbabilities: TypeAlias = Callable[[Sequence[Scored]], list[list[float]]]
"""Gives, for each row, the log-probability of each of its picks."""


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
    window of running text adds to the score (see `score`)."""


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


def score(items: Sequence[Item], task: TaskSpec, answers: Answers) -> Score:
    """Score a task.

    The score of running text is exp(-H), with H the nats per token over all windows: no mean over
    windows. So that its bootstrap is one of the same quantity, each window stands with its part in
    the score's expansion to first order, exp(-H) (1 + (H n_w - nats_w) / mean n), whose mean over
    windows is exp(-H) itself (the infinitesimal jackknife; Jaeckel 1972).

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
    if not items:
        raise ValueError("There is nothing to score: `items` is empty.")

    def log_probabilities(rows: Sequence[Scored]) -> list[list[float]]:
        values = answers.log_probabilities(rows)
        for value in (value for row in values for value in row):
            if not math.isfinite(value):
                raise DivergedError(_not_finite(f"a log-probability is {value}", task))
        return values

    windows = [item for item in items if isinstance(item, Window)]
    if windows:
        return _score_text(windows, log_probabilities)
    writings = [item for item in items if isinstance(item, Writing)]
    if writings and isinstance(task, GenerationTask):
        found = answers.write([item.prompt for item in writings], task)
        written = [text for text in found if text is not None]
        if len(written) < len(found):
            raise DivergedError(_not_finite("scores of the next token are no numbers", task))
        return score_written(written, [item.reference for item in writings], task)
    questions = [item for item in items if isinstance(item, Question)]
    likelihoods = question_log_likelihoods(questions, log_probabilities)
    plain = _right(questions, likelihoods, "accuracy")
    normalised = _right(questions, likelihoods, "accuracy_norm")
    metrics = {
        "accuracy": sum(plain) / len(plain),
        "accuracy_norm": sum(normalised) / len(normalised),
    }
    chosen = normalised if task.metric == "accuracy_norm" else plain
    return Score(metrics[task.metric], metrics, tuple(chosen))


def _not_finite(what: str, task: TaskSpec) -> str:
    return (
        f"{what} when task {task.name!r} is scored: what the weights compute is not finite any "
        "more; lower the learning rate"
    )


def score_written(written: Sequence[str], references: Sequence[str], task: GenerationTask) -> Score:
    """Score what a model wrote against references, one each.

    Args:
        written: The texts.
        references: What they should have been.
        task: Names the metric.

    Returns:
        The score. The headline is the mean over examples, so that it can be paired and resampled:
        for BLEU the mean sentence BLEU, with the usual corpus BLEU beside it as `bleu`.
    """
    exact = [
        float(_same(text, reference, task)) for text, reference in zip(
            written, references, strict=True
        )
    ]  # fmt: skip
    metrics = {"exact_match": sum(exact) / len(exact)}
    each = exact
    rated = [task.rate(text, ref) for text, ref in zip(written, references, strict=True)]
    own = [value for value in rated if value is not None]
    if len(own) == len(rated):
        each = own
        metrics[task.metric] = sum(own) / len(own)
    elif task.metric == "bleu":
        import sacrebleu

        each = [
            sacrebleu.sentence_bleu(text, [reference]).score / 100.0
            for text, reference in zip(written, references, strict=True)
        ]
        metrics["bleu"] = sacrebleu.corpus_bleu(list(written), [list(references)]).score / 100.0
        metrics["sentence_bleu"] = sum(each) / len(each)
    elif task.metric == "rouge_l":
        from rouge_score import rouge_scorer

        scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
        found = [
            scorer.score(reference, text)
            for text, reference in zip(written, references, strict=True)
        ]
        each = [one["rougeL"].fmeasure for one in found]
        for name, key in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
            metrics[name] = sum(one[key].fmeasure for one in found) / len(found)
    return Score(sum(each) / len(each), metrics, tuple(each))


def _same(text: str, reference: str, task: GenerationTask) -> bool:
    if task.answer == "text":
        return text.strip() == reference.strip()
    wanted = final_number(reference)
    return wanted is not None and final_number(text) == wanted


def final_number(text: str) -> Decimal | None:
    """The last number of a text, thousands separators removed; None when there is none."""
    found = re.findall(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", text)
    return Decimal(found[-1].replace(",", "")) if found else None


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


def _score_text(windows: Sequence[Window], log_probabilities: LogProbabilities) -> Score:
    answers = log_probabilities([row for window in windows for row in scored_rows(window)])
    nats = -sum(sum(values) for values in answers)
    count = sum(len(values) for values in answers)
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
            for values in answers
        ),
    )
