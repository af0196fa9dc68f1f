import math

import pytest

from orchestrator.encoding import Question, Window, Writing
from orchestrator.evaluation import final_number, question_log_likelihoods, score, score_written
from orchestrator.tasks import parse_task


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
    assert question_log_likelihoods(questions, Fixed(table).log_probabilities) == [
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


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="`items` is empty"):
        score([], task("multiple_choice"), Fixed())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She pays 3 + 4 = 7.\n#### 7", 7),
        ("The answer is $1,234.50.", 1234.5),
        ("It fell to -12 degrees", -12),
        ("about .5 of it", 0.5),
        ("none", None),
    ],
)
def test_the_final_number_of_a_text(text, expected):
    assert final_number(text) == (None if expected is None else pytest.approx(expected))


def test_exact_match_compares_texts_or_final_numbers():
    texts = {(1,): "so it is 7.0", (2,): "8"}
    items = [Writing((1,), (), "3 + 4 = 7 #### 7"), Writing((2,), (), "#### 9")]
    numbers = task("generation", answer="final_number")
    got = score(items, numbers, Fixed(texts=texts))
    assert (got.value, got.per_example) == (0.5, (1.0, 0.0))
    whole = task("generation")
    assert score([Writing((2,), (), " 8\n")], whole, Fixed(texts=texts)).value == 1.0
    assert score(items, whole, Fixed(texts=texts)).value == 0.0


def test_bleu_is_that_of_sacrebleu_and_paired_by_sentence():
    import sacrebleu

    written = ["the cat sat on the mat today", "a dog"]
    references = ["the cat sat on the mat", "a dog barks at the moon"]
    got = score_written(written, references, task("generation", metric="bleu"))
    corpus = sacrebleu.BLEU().corpus_score(written, [references]).score
    assert got.metrics["bleu"] == pytest.approx(corpus / 100)
    assert got.value == pytest.approx(sum(got.per_example) / 2) == got.metrics["sentence_bleu"]
    perfect = score_written(references, references, task("generation", metric="bleu"))
    assert perfect.value == pytest.approx(1.0)


def test_rouge_l_of_known_texts():
    # Longest common subsequence of 3 words; precision 3/3, recall 3/6: F1 = 2/3.
    got = score_written(
        ["police killed gunman"],
        ["the police killed the bad gunman"],
        task("generation", metric="rouge_l"),
    )
    assert got.value == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    assert got.metrics["rouge_l"] == got.value
