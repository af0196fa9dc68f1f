"""The head-only control: a linear head on the frozen base's hidden states, and nothing else.

A frozen backbone with a linear head per task forgets nothing, so a method that cannot beat it has
shown nothing (Kornblith et al. 2019, arXiv 1805.08974, on linear probes). To be a strong rival, it
is fitted to convergence and not trained for a few steps: multinomial logistic regression on
standardised features, with the usual L2 penalty of strength 1, chosen beforehand and not tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.data.items import Example, Item, Question
from orchestrator.data.model_inputs import Scored
from orchestrator.data.prepared import PreparedTask
from orchestrator.loop.scoring import DivergedError, Score

PENALTY = 1.0
"""Of half the squared weights, beside the sum of the examples' losses."""
MOST_EXAMPLES = 4096
"""Training examples used at most, each label of the task among them; more of them hardly change a
linear head."""


def head_only(
    task: PreparedTask,
    hidden_states: Callable[[Sequence[Scored]], Any],
    items: Sequence[Item] | None = None,
) -> Score:
    """Fit the control on a task's training split and score it on another.

    Args:
        task: A classification task with training examples.
        hidden_states: Gives the last hidden state of each row, float32 (rows, hidden).
        items: What it is scored on; None: the validation split.

    Returns:
        The score; NaN, with no examples, when the training split has only one label (which is said
        when the data are prepared).

    Raises:
        DivergedError: If a hidden state is not finite.
    """
    examples = _chosen([example for example in task.train if example.label is not None])
    labels = [int(example.label or 0) for example in examples]
    if len(set(labels)) < 2:
        return Score(float("nan"))
    scored = task.validation if items is None else items
    questions = [item for item in scored if isinstance(item, Question)]
    prompts = [example.tokens[: example.scored_from] for example in examples]
    prompts += [question.prompt for question in questions]
    features = hidden_states([Scored(p, ((len(p) - 1, 0),)) for p in prompts]).double()
    if not bool(torch.isfinite(features).all()):
        raise DivergedError(
            f"The base's hidden states on the task {task.name!r} are not finite, so no head can be "
            "fitted to them. Try `training.precision: fp32`, or another base."
        )
    seen, unseen = features[: len(examples)], features[len(examples) :]
    guesses = fit(seen, labels).predict(unseen.numpy()).tolist()
    right = tuple(
        float(guess == question.answer) for guess, question in zip(guesses, questions, strict=True)
    )
    accuracy = sum(right) / len(right)
    return Score(accuracy, {"accuracy": accuracy, "examples": float(len(examples))}, right)


def _chosen(examples: Sequence[Example]) -> list[Example]:
    """The first examples, whose order is by hash, and the first of each label that is rarer."""
    first, rest = list(examples[:MOST_EXAMPLES]), examples[MOST_EXAMPLES:]
    seen = {example.label for example in first}
    for example in rest:
        if example.label not in seen:
            seen.add(example.label)
            first.append(example)
    return first


def fit(features: Tensor, labels: Sequence[int], *, penalty: float = PENALTY) -> Any:
    """Multinomial logistic regression on standardised features, to convergence (L-BFGS).

    Args:
        features: Float64 (N, d).
        labels: N integers, at least two different ones. A label that is not among them is never
            answered.
        penalty: Of half the squared weights of a softmax; the bias is free.

    Returns:
        A pipeline of scikit-learn; `predict` maps features (M, d) to M labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # For two labels scikit-learn learns the difference w of the softmax's two weights, which are
    # w/2 and -w/2 at its optimum: their half squares sum to half of half the square of w.
    strength = 1 / penalty if len(set(labels)) > 2 else 2 / penalty
    regression = LogisticRegression(C=strength, tol=1e-7, max_iter=2000)
    return make_pipeline(StandardScaler(), regression).fit(features.numpy(), labels)
