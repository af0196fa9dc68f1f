"""Data sets of the demonstration: questions asked of rated texts, and rows of reference text."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orchestrator.demo.ratings import RatedText

Row = dict[str, Any]


Question = Callable[[RatedText], str | None]
"""Gives a text its label, or None where the question does not arise or the raters are divided."""


def sentiment_of(source: str) -> Question:
    """The question whether texts of a source are positive or negative.

    A mean within 0.5 of zero is left out: there the raters disagree on the sign, or saw no opinion.

    Args:
        source: One of `SOURCES`.

    Returns:
        The question, answered by `positive` or `negative`.
    """

    def answer(rated: RatedText) -> str | None:
        if rated.source != source or abs(rated.score) < 0.5:
            return None
        return "positive" if rated.score > 0 else "negative"

    return answer


def text_source(rated: RatedText) -> str:
    """The question where a text comes from."""
    return rated.source


def opinion_strength(rated: RatedText) -> str | None:
    """The question how strong the opinion in a tweet or product review is, whatever its sign.

    Args:
        rated: A text of any source.

    Returns:
        `strong` for a mean at least 2 from zero, `mild` for one less than 1; None between.
    """
    if rated.source not in {"tweet", "product"} or 1 <= abs(rated.score) < 2:
        return None
    return "strong" if abs(rated.score) >= 2 else "mild"


QUESTIONS: Mapping[str, Question] = {
    "movie_sentiment": sentiment_of("movie"),
    "text_source": text_source,
    "opinion_strength": opinion_strength,
    "product_sentiment": sentiment_of("product"),
}


def split_of(text: str) -> str:
    """The split of a text: a tenth each for test and validation, by its SHA-1.

    It depends on the text alone. Equal texts never cross splits, not even those of two tasks, so
    that nothing learnt in one task is tested in another.

    Args:
        text: The text of a row.

    Returns:
        `train`, `validation` or `test`.
    """
    bucket = int(_sha1(text)[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def ask(question: Question, rated_texts: Iterable[RatedText]) -> dict[str, list[Row]]:
    """Make a data set by asking one question of all texts.

    Every split is balanced (each label as often as the rarest one), and so is every run of rows
    at its beginning, so that the first n rows are a fair sample; which rows these are is decided by
    the SHA-1 of the text. A text that got two different answers is left out.

    Args:
        question: Gives the labels.
        rated_texts: The texts to ask about.

    Returns:
        Rows (`text`, `label`, `score`, `id`) by split.
    """
    answers: dict[str, dict[str, RatedText]] = defaultdict(dict)
    for rated in rated_texts:
        label = question(rated)
        if label is not None:
            answers[rated.text].setdefault(label, rated)
    rows: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for text in sorted(answers, key=_sha1):
        if len(answers[text]) == 1:
            ((label, rated),) = answers[text].items()
            row = {"text": text, "label": label, "score": rated.score, "id": rated.id}
            rows[split_of(text)][label].append(row)
    return {split: _balanced(by_label) for split, by_label in rows.items()}


def _balanced(by_label: Mapping[str, list[Row]]) -> list[Row]:
    one_of_each = zip(*by_label.values(), strict=False)  # ends with the rarest label
    return [
        row for group in one_of_each for row in sorted(group, key=lambda row: _sha1(row["text"]))
    ]


def documentation_rows(topics: Mapping[str, str], row_length: int = 1000) -> dict[str, list[Row]]:
    """Cut reference text into rows of whole paragraphs, half of the topics in each split.

    Topics repeat parts of one another: a paragraph is kept where it comes first.

    Args:
        topics: Texts by name.
        row_length: Characters after which a row ends, at the next end of a paragraph.

    Returns:
        Rows (`text`, `id`) of the splits `validation` and `test`.
    """
    splits: dict[str, list[Row]] = {"validation": [], "test": []}
    seen: set[str] = set()
    for topic in sorted(topics):
        rows = splits["validation" if int(_sha1(topic)[:8], 16) % 2 else "test"]
        group: list[str] = []
        paragraphs = [part.strip("\n") for part in topics[topic].split("\n\n")]
        new = [part for part in dict.fromkeys(paragraphs) if part.strip() and part not in seen]
        seen.update(new)
        for number, paragraph in enumerate(new):
            group.append(paragraph)
            if sum(map(len, group)) >= row_length or number == len(new) - 1:
                rows.append({"text": "\n\n".join(group), "id": f"{topic}:{number + 1}"})
                group = []
    return splits
