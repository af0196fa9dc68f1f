"""One task from its splits to token ids, with the facts that go into the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.data.encoding import encode_question, encode_windows, encode_writing
from orchestrator.data.formats.placed_row import DataError, Row
from orchestrator.data.held_out import row_marks
from orchestrator.data.items import Example, Question, Window, Writing, example_of
from orchestrator.data.model_inputs import scored_rows
from orchestrator.data.prepared import PreparedTask
from orchestrator.data.prompts import row_text
from orchestrator.data.sources.reading import read_split
from orchestrator.data.splits import Splits, split_rows, text_digest
from orchestrator.spec.sections import DataLimits
from orchestrator.spec.task_kinds import (
    ChoiceTask,
    GenerationTask,
    LanguageModellingTask,
    TaskSpec,
)


def prepare_task(
    spec: TaskSpec,
    tokenizer: Any,
    limits: DataLimits,
    *,
    max_length: int,
    learnt: bool,
    source: bool = False,
    held: frozenset[str] = frozenset(),
) -> PreparedTask:
    """One task as token ids.

    Args:
        spec: The task.
        tokenizer: The base model's tokenizer.
        limits: How much of the data is used.
        max_length: Tokens per example or window.
        learnt: Whether the task is learnt (it then needs training rows) or only measured.
        source: Whether a method reads training rows of it without learning it.
        held: Marks of rows that other tasks over the same source hold out, see `held_by_others`.

    Returns:
        The prepared task.

    Raises:
        DataError: If a learnt task has no training rows.
    """
    splits, removed = _own_rows(spec, held)
    if not splits.train:
        _refuse_nothing_to_learn(spec, removed, learnt=learnt, source=source)
    rows = limits.train_examples if learnt else limits.source_examples if source else 0
    facts: dict[str, Any] = {
        "rows": {
            "train": len(splits.train),
            "validation": len(splits.validation),
            "test": len(splits.test),
        },
        "origins": splits.origins,
        "overlaps_removed": splits.overlaps_removed,
    }
    if held:
        facts["held_by_others"] = removed
    if isinstance(spec, LanguageModellingTask):
        return _prepare_text(spec, splits, tokenizer, limits, max_length, rows, facts)
    train_rows = _in_hash_order(spec, splits.train, rows)
    validation_rows = _in_hash_order(spec, splits.validation, limits.validation_examples)
    test_rows = _in_hash_order(spec, splits.test, limits.test_examples)
    facts |= {"rows_left_out": splits.left_out, "rows_incomplete": splits.incomplete}

    def encode(rows: Sequence[Row]) -> list[Question | Writing]:
        if isinstance(spec, GenerationTask):
            return [encode_writing(spec, row, tokenizer, max_length) for row in rows]
        assert isinstance(spec, ChoiceTask), spec.kind
        asked = [encode_question(spec, row, tokenizer, max_length) for row in rows]
        return [question for question in asked if question.is_answerable]

    train, validation, test = encode(train_rows), encode(validation_rows), encode(test_rows)
    given = len(train_rows) + len(validation_rows) + len(test_rows)
    facts["rows_alike"] = given - len(train) - len(validation) - len(test)
    if not validation or (train_rows and not train):
        raise DataError(
            f"Task {spec.name!r}: in each row the right choice reads like another one, as text or "
            "to this tokenizer, so nothing is asked. Write the choices apart."
        )
    everything = [*train, *validation]
    longest = [_longest(item) for item in everything]
    facts |= {
        "train_examples": len(train),
        "validation_examples": len(validation),
        "test_examples": len(test),
        "prompts_shortened": sum(item.shortened for item in everything),
        "mean_tokens": round(sum(longest) / len(longest), 1),
        "train_tokens": sum(len(example_of(item).tokens) for item in train),
        "validation_tokens": sum(_tokens_to_score(spec, item) for item in validation),
    }
    facts |= _answer_facts(spec, train, validation)
    return PreparedTask(
        name=spec.name,
        spec=spec,
        train=tuple(example_of(item) for item in train),
        validation=tuple(validation),
        test=tuple(test),
        labels=tuple(spec.label_values),
        facts=facts,
    )


def _own_rows(spec: TaskSpec, held: frozenset[str]) -> tuple[Splits, int]:
    """A task's splits without what others hold out, and how many rows of train that is."""
    splits = split_rows(spec, lambda name: read_split(spec.data, name))
    if not held:
        return splits, 0
    kept = [row for row in splits.train if held.isdisjoint(row_marks(spec, row))]
    return replace(splits, train=kept), len(splits.train) - len(kept)


def _refuse_nothing_to_learn(spec: TaskSpec, removed: int, *, learnt: bool, source: bool) -> None:
    if learnt and removed:
        raise DataError(
            f"Task {spec.name!r}: other tasks over the same source hold out all of its {removed} "
            "training rows. Give each of them the same `splits`."
        )
    if learnt:
        raise DataError(
            f"Task {spec.name!r} has no training rows, so it cannot be learnt; "
            "name it under `probes` instead of `tasks`."
        )
    if source:
        raise DataError(
            f"Probe {spec.name!r} has no training rows, and a method reads them (`sources` or "
            "`source`); what a probe is measured on takes no part in learning. Name another probe."
        )


def _answer_facts(
    spec: TaskSpec, train: Sequence[Question | Writing], validation: Sequence[Question | Writing]
) -> dict[str, Any]:
    """What guesses score, and which labels there are."""
    questions = [item for item in validation if isinstance(item, Question)]
    if not questions:
        return {}
    facts: dict[str, Any] = {
        "chance": sum(1 / len(q.continuations) for q in questions) / len(questions)
    }
    labels = spec.label_values
    if not labels:
        return facts
    # The majority class is learnt from train where there is one: a fair rival may not peek.
    counts = Counter(q.answer for q in train or validation if isinstance(q, Question))
    if train and len(counts) == 1:
        facts["head_only"] = _one_label(spec, labels[next(iter(counts))], len(train))
    majority = max(counts, key=lambda answer: (counts[answer], -answer))
    return facts | {
        "majority": sum(q.answer == majority for q in questions) / len(questions),
        "majority_label": labels[majority],
        "label_counts": {
            labels[a]: n for a, n in sorted(Counter(q.answer for q in questions).items())
        },
    }


def _one_label(spec: TaskSpec, label: str, count: int) -> str:
    """Why there will be no head-only control, in words.

    Args:
        spec: The task.
        label: The only label.
        count: Training rows.

    Returns:
        The words.

    Raises:
        DataError: If what the task learns would be compared with that control.
    """
    if spec.has_head:
        raise DataError(
            f"Task {spec.name!r}: the {count} training rows that are used all have the label "
            f"{label!r}. A linear head is compared with one on the frozen base (head-only), which "
            "cannot be fitted to one label. Bring rows of another, or raise `data.train_examples`."
        )
    return f"cannot be fitted: the {count} training rows that are used all have the label {label!r}"


def _longest(item: Question | Writing) -> int:
    if isinstance(item, Writing):
        return len(item.prompt) + len(item.target)
    return len(item.prompt) + max(len(tail) for tail in item.continuations)


def _tokens_to_score(spec: TaskSpec, item: Question | Writing) -> int:
    """Tokens that the model computes to score an item; writing may end sooner than it must."""
    if isinstance(item, Question):
        return sum(len(row.tokens) for row in scored_rows(item))
    return len(item.prompt) + (spec.max_new_tokens if isinstance(spec, GenerationTask) else 0)


def _prepare_text(
    spec: LanguageModellingTask,
    splits: Splits,
    tokenizer: Any,
    limits: DataLimits,
    max_length: int,
    rows: int | None,
    facts: dict[str, Any],
) -> PreparedTask:
    def windows(rows: Sequence[Row], length: int, limit: int | None) -> tuple[Window, ...]:
        text = spec.joiner.join(row_text(spec, row) for row in rows)
        return encode_windows(text, tokenizer, length=length, limit=limit)

    context = limits.probe_context
    validation = windows(splits.validation, context, limits.probe_tokens)
    if not validation:
        raise DataError(f"Task {spec.name!r}: the validation text has fewer than two tokens.")
    train = windows(splits.train, max_length, _enough(rows, max_length))[:rows]
    test = windows(splits.test, context, limits.probe_tokens) if splits.test else ()
    facts |= {
        "train_examples": len(train),
        "validation_examples": len(validation),
        "test_examples": len(test),
        "train_tokens": sum(len(w.tokens) for w in train),
        "validation_tokens": sum(len(w.tokens) for w in validation),
        "scored_tokens": sum(len(w.tokens) - w.scored_from for w in validation),
        "mean_tokens": context,
    }
    return PreparedTask(
        name=spec.name,
        spec=spec,
        train=tuple(Example(w.tokens, w.scored_from) for w in train),
        validation=validation,
        test=test,
        facts=facts,
    )


def _enough(rows: int | None, max_length: int) -> int | None:
    """Tokens that fill so many windows; None for all of the text."""
    return None if rows is None else rows * max_length


def _in_hash_order(task: TaskSpec, rows: Sequence[Row], limit: int | None) -> list[Row]:
    """Rows in an order fixed by their text, the first of them where there is a limit."""
    # The order of a file, sorted by label for example, shall decide neither which rows are learnt
    # nor which are looked at first at a rung or by a control.
    return sorted(rows, key=lambda row: text_digest(row_text(task, row), "sample"))[:limit]
