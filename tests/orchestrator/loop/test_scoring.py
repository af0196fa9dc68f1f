import math
import random

import pytest

from orchestrator.data.items import Question, Window, Writing
from orchestrator.loop.scoring import (
    DivergedError,
    prompts_of,
    question_log_likelihoods,
    rows_of,
    score,
    score_of,
    score_of_texts,
)
from orchestrator.measures.intervals import gain_interval
from orchestrator.spec.task_files import parse_task


class Fixed:
    """Log-probabilities by token, whatever the context; texts by prompt."""

    def __init__(self, table=None, texts=None):
        self.table, self.texts = table or {}, texts or {}

    def log_probabilities(self, rows):
        return [[self.table[token] for _, token in row.picks] for row in rows]

    def write(self, prompts, task):
        return [self.texts[prompt] for prompt in prompts]


def task(kind, **fields):
    common = {"name": "t", "kind": kind, "data": {"files": "."}, **fields}
    if kind != "language_modelling":
        common["prompt"] = "{text}"
    return parse_task(common, "t.yaml")


def test_continuations_are_summed_over_their_tokens():
    questions = [
        Question((1,), ((5,), (6, 7)), (1, 9), 0),
        Question((1, 2), ((7,), (5,)), (1, 1), 1),
    ]
    table = {5: -1.0, 6: -0.3, 7: -0.5}
    values = Fixed(table).log_probabilities(rows_of(questions))
    assert question_log_likelihoods(questions, values) == [
        [-1.0, pytest.approx(-0.8)],
        [-0.5, -1.0],
    ]


def test_accuracy_and_its_length_normalised_sister():
    # Plain likelihood prefers the short wrong choice, per byte the long right one wins.
    questions = [Question((1,), ((5,), (6, 7)), (2, 20), 1)]
    table = {5: -1.0, 6: -0.8, 7: -0.8}
    plain = score(questions, task("multiple_choice"), Fixed(table))
    assert (plain.value, plain.metrics) == (0.0, {"accuracy": 0.0, "accuracy_norm": 1.0})
    assert (
        score(questions, task("multiple_choice", metric="accuracy_norm"), Fixed(table)).value == 1.0
    )
    assert plain.per_example == (0.0,)


def test_text_gives_cross_entropy_perplexity_and_bits_per_byte():
    windows = [Window((1, 5, 5), 1, 4), Window((1, 5), 1, 2)]
    got = score(windows, task("language_modelling"), Fixed({5: -math.log(4)}))
    assert got.metrics == {
        "cross_entropy": pytest.approx(math.log(4)),
        "perplexity": pytest.approx(4.0),
        "bits_per_byte": pytest.approx(3 * 2 / 6),
    }
    assert got.value == pytest.approx(0.25)


def test_a_score_of_text_is_the_mean_over_its_windows_and_lies_in_its_interval():
    """Windows of unequal length and likelihood: exp of the mean is not the mean of the exps."""
    generator = random.Random(0)
    windows, table = [], {}
    for number in range(40):
        tokens = tuple(range(100 * number, 100 * number + generator.choice([3, 8, 32])))
        windows.append(Window(tokens, 1, len(tokens)))
        table |= {token: -generator.expovariate(0.3) for token in tokens}
    after = {token: value + generator.gauss(0.05, 0.05) for token, value in table.items()}
    before, learnt = (
        score(windows, task("language_modelling"), Fixed(side)) for side in (table, after)
    )
    for got in (before, learnt):
        assert sum(got.per_example) / len(windows) == pytest.approx(got.value, rel=1e-12)
    interval = gain_interval([learnt.per_example], [before.per_example])
    gain = learnt.value - before.value
    assert interval.low < gain < interval.high
    # The bootstrap of the score itself, token sums resampled by window, says the same.
    resampled = []
    for _ in range(2000):
        chosen = generator.choices(windows, k=len(windows))
        sums = [sum(side[t] for w in chosen for t in w.tokens[1:]) for side in (table, after)]
        count = sum(len(w.tokens) - 1 for w in chosen)
        resampled.append(math.exp(sums[1] / count) - math.exp(sums[0] / count))
    resampled.sort()
    width = resampled[1949] - resampled[50]
    assert interval.low == pytest.approx(resampled[50], abs=0.2 * width)
    assert interval.high == pytest.approx(resampled[1949], abs=0.2 * width)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_a_score(broken):
    """`max` over NaN would choose the first label, and give the share of the first class."""
    questions = [Question((1,), ((5,), (6,)), (1, 1), 0)]
    with pytest.raises(DivergedError, match=r"task .t. is scored.*lower the learning rate"):
        score(questions, task("multiple_choice"), Fixed({5: broken, 6: -1.0}))
    with pytest.raises(DivergedError, match="log-probability"):
        score([Window((1, 5), 1, 2)], task("language_modelling"), Fixed({5: broken}))
    with pytest.raises(DivergedError, match="no numbers"):
        score([Writing((1,), (), "8")], task("generation"), Fixed(texts={(1,): None}))


@pytest.mark.parametrize("kind", ["multiple_choice", "generation", "language_modelling"])
def test_nothing_to_score_is_refused(kind):
    with pytest.raises(ValueError, match="`items` is empty"):
        score([], task(kind), Fixed())


def test_a_score_is_made_of_the_values_of_its_rows_whoever_has_computed_them():
    table = {5: -1.0, 6: -0.3, 7: -0.5}
    questions = [
        Question((1,), ((5,), (6, 7)), (1, 9), 0),
        Question((2,), ((7, 5), (7, 6)), (1, 1), 1),
    ]
    choice, text = task("multiple_choice"), task("language_modelling")
    for items, of in ((questions, choice), ([Window((1, 5, 6), 1, 4), Window((1, 7), 1, 2)], text)):
        rows = rows_of(items)
        assert prompts_of(items) == []
        values = [[table[token] for _, token in row.picks] for row in rows]
        assert score_of(items, of, values) == score(items, of, Fixed(table))
    written = [Writing((1,), (), "7"), Writing((2,), (), "8")]
    assert rows_of(written) == []
    texts = {(1,): "7", (2,): "9"}
    found = score_of_texts(written, task("generation"), [texts[p] for p in prompts_of(written)])
    assert found == score(written, task("generation"), Fixed(texts=texts))
    assert found.per_example == (1.0, 0.0)


def test_exact_match_compares_texts_or_final_numbers():
    texts = {(1,): "so it is 7.0", (2,): "8"}
    items = [Writing((1,), (), "3 + 4 = 7 #### 7"), Writing((2,), (), "#### 9")]
    numbers = task("generation", answer="final_number")
    got = score(items, numbers, Fixed(texts=texts))
    assert (got.value, got.per_example) == (0.5, (1.0, 0.0))
    whole = task("generation")
    assert score([Writing((2,), (), " 8\n")], whole, Fixed(texts=texts)).value == 1.0
    assert score(items, whole, Fixed(texts=texts)).value == 0.0
