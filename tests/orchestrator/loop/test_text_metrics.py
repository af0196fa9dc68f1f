"""Written texts beside references."""

import pytest

from orchestrator.loop.text_metrics import final_number, text_metrics
from orchestrator.spec.task_files import parse_task


def task(**fields):
    """A task whose answers are written."""
    common = {"name": "t", "kind": "generation", "data": {"files": "."}, "prompt": "{text}"}
    return parse_task({**common, **fields}, "t.yaml")


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


def test_bleu_is_that_of_sacrebleu_and_paired_by_sentence():
    import sacrebleu

    written = ["the cat sat on the mat today", "a dog"]
    references = ["the cat sat on the mat", "a dog barks at the moon"]
    metrics, each = text_metrics(written, references, task(metric="bleu"))
    corpus = sacrebleu.BLEU().corpus_score(written, [references]).score
    assert metrics["bleu"] == pytest.approx(corpus / 100)
    assert sum(each) / 2 == pytest.approx(metrics["sentence_bleu"])
    _, perfect = text_metrics(references, references, task(metric="bleu"))
    assert perfect == pytest.approx([1.0, 1.0])


def test_rouge_l_of_known_texts():
    # Longest common subsequence of 3 words; precision 3/3, recall 3/6: F1 = 2/3.
    metrics, each = text_metrics(
        ["police killed gunman"],
        ["the police killed the bad gunman"],
        task(metric="rouge_l"),
    )
    assert each == pytest.approx([2 * 1.0 * 0.5 / 1.5])
    assert [metrics["rouge_l"]] == each
