import math

import pytest

from orchestrator.batches import Question, Window
from orchestrator.evaluation import question_log_likelihoods, score


def fixed(table):
    """Log-probabilities by token, whatever the context."""
    return lambda rows: [[table[token] for _, token in row.picks] for row in rows]


def test_continuations_are_summed_over_their_tokens():
    questions = [
        Question((1,), ((5,), (6, 7)), (1, 9), 0),
        Question((1, 2), ((7,), (5,)), (1, 1), 1),
    ]
    table = {5: -1.0, 6: -0.3, 7: -0.5}
    assert question_log_likelihoods(questions, fixed(table)) == [
        [-1.0, pytest.approx(-0.8)],
        [-0.5, -1.0],
    ]


def test_accuracy_and_its_length_normalised_sister():
    # Plain likelihood prefers the short wrong choice, per byte the long right one wins.
    questions = [Question((1,), ((5,), (6, 7)), (2, 20), 1)]
    table = {5: -1.0, 6: -0.8, 7: -0.8}
    plain = score(questions, "accuracy", fixed(table))
    assert (plain.value, plain.metrics) == (0.0, {"accuracy": 0.0, "accuracy_norm": 1.0})
    assert score(questions, "accuracy_norm", fixed(table)).value == 1.0
    assert plain.per_example == (0.0,)


def test_text_gives_cross_entropy_perplexity_and_bits_per_byte():
    windows = [Window((1, 5, 5), 1, 4), Window((1, 5), 1, 2)]
    got = score(windows, "perplexity", fixed({5: -math.log(4)}))
    assert got.metrics == {
        "cross_entropy": pytest.approx(math.log(4)),
        "perplexity": pytest.approx(4.0),
        "bits_per_byte": pytest.approx(3 * 2 / 6),
    }
    assert got.value == pytest.approx(0.25)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="`items` is empty"):
        score([], "accuracy", fixed({}))
