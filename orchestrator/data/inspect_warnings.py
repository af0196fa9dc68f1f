"""What looks wrong with a task and its data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.data.continuations import words_that_begin_others
from orchestrator.data.encoding import encode_question, encode_writing
from orchestrator.data.formats.placed_row import PlacedRow, Row, where_is
from orchestrator.data.inspect_facts import (
    ROWS_TOKENISED,
    SPLITS,
    SplitFacts,
    answer_text,
    first_by_hash,
)
from orchestrator.data.prompt_tokens import encode_prompt
from orchestrator.data.prompts import continuation_texts, row_text
from orchestrator.data.row_values import question_columns
from orchestrator.data.sources.reading import split_names
from orchestrator.data.splits import Splits
from orchestrator.spec.task_kinds import (
    ChoiceTask,
    GenerationTask,
    LanguageModellingTask,
    PromptedTask,
    TaskSpec,
)
from orchestrator.system.formatting import count

FEW_VALIDATION_ROWS = 50
"""With fewer, one answer moves the score by more than two points."""
IMBALANCED = 0.9
"""Share of the commonest label from which on a constant guess is hard to beat."""


ROWS_ENCODED = 100
"""Rows of a split that are encoded as for a sweep, with every continuation."""
ANY_LENGTH = 1 << 30
"""Tokens that no row has."""


def task_warnings(
    task: TaskSpec,
    splits: Splits,
    facts: Mapping[str, SplitFacts],
    tokenizer: Any,
    max_length: int | None,
) -> Iterable[str]:
    """Whatever looks wrong, a message each."""
    yield from _about_splits(task, splits, facts)
    if not isinstance(task, PromptedTask):
        return
    yield from _about_prompt(task, splits)
    if task.words:
        yield from _about_labels(facts)
        if not task.has_head:
            yield from _about_words(task, tokenizer)
    if isinstance(task, GenerationTask):
        yield from _about_references(task, splits, tokenizer)
    if tokenizer is not None:
        yield from _about_tokens(task, splits, tokenizer)
    tokens = [part.tokens for part in facts.values() if part.tokens is not None]
    over = sum(lengths.over_limit or 0 for lengths in tokens)
    looked_at = sum(lengths.rows for lengths in tokens)
    if over:
        yield (
            f"{over} of {looked_at} rows looked at are longer than `training.max_length` "
            f"{max_length} and will be shortened; the longest has "
            f"{max(lengths.longest for lengths in tokens)} tokens"
        )


def _about_splits(task: TaskSpec, splits: Splits, facts: Mapping[str, SplitFacts]) -> Iterable[str]:
    rows = facts["validation"].rows
    if rows < FEW_VALIDATION_ROWS and not isinstance(task, LanguageModellingTask):
        yield (
            f"validation has {count(rows, 'row')}: one answer moves the score by "
            f"{100 / rows:.1f} points"
        )
    if not facts["train"].rows:
        yield "there are no training rows: the task can be a probe, and cannot be learnt"
    if splits.overlaps_removed:
        yield (
            f"{count(splits.overlaps_removed, 'row')} of train also stood in validation or test "
            "and will not be trained on"
        )
    if not isinstance(task, LanguageModellingTask):
        test = {row_text(task, row) for row in splits.test}
        both = sum(row_text(task, row) in test for row in splits.validation)
        if both:
            yield f"{count(both, 'row')} of validation also stand in test"
    if splits.incomplete:
        yield (
            f"{count(splits.incomplete, 'row')} without an answer or a text are left out; the "
            f"first: {splits.first_incomplete}"
        )
    yield from _about_values(task, splits)
    if task.data.files is not None:
        used = {str(name).split("[")[0] for name in task.splits.model_dump().values() if name}
        used = {task.data.split_names.get(name, name) for name in used}
        unused = sorted(set(split_names(task.data)) - used)
        if unused:
            yield f"no split of the task names the data of {', '.join(map(repr, unused))}"


_WORDS_FOR_NOTHING = frozenset({"nan", "none", "null", "<na>", "n/a", "nat", "#n/a"})


def _about_values(task: TaskSpec, splits: Splits) -> Iterable[str]:
    """Words that some programs write for what is missing, and quotes that may close too late."""
    columns = [*question_columns(task), *filter(None, [task.answer_from])]
    words: dict[str, list[Row]] = {}
    doubtful: list[PlacedRow] = []
    for row in (*splits.train, *splits.validation, *splits.test):
        if isinstance(row, PlacedRow) and row.until is not None:
            doubtful.append(row)
        for column in columns:
            value = row.get(column)
            if isinstance(value, str) and value.strip().casefold() in _WORDS_FOR_NOTHING:
                words.setdefault(column, []).append(row)
    for column, rows in words.items():
        yield (
            f"{count(len(rows), 'row')} have {str(rows[0][column]).strip()!r} for `{column}` "
            f"({where_is(rows[0])}): if that stands for something missing, write nothing or null "
            "there, as it is read as a word"
        )
    if doubtful:
        first = doubtful[0]
        yield (
            f"{count(len(doubtful), 'row')} have several lines of which each could be a row of its "
            f"own; the first goes from line {first.number} to line {first.until} of {first.file}: "
            "look whether a quote is closed too late"
        )


def _about_prompt(task: PromptedTask, splits: Splits) -> Iterable[str]:
    if task.template == "raw" and task.prompt[-1:].isspace() and not task.prompt.endswith("\n"):
        yield (
            "the prompt ends in a space: most tokenizers put the space before a word into the "
            "word's own token, so leave it to the continuation"
        )
    elif task.template == "raw" and not task.prompt.endswith("\n") and not task.has_head:
        rows = [*splits.train[:1], *splits.validation[:1]]
        glued = [text for text in continuation_texts(task, rows[0]) if not text[:1].isspace()]
        if glued:
            yield (
                f"{glued[0][:40]!r} begins without a space, so the model reads it joined to the "
                f"prompt's end {task.prompt[-12:]!r}"
            )
    if isinstance(task, ChoiceTask) and not task.words:
        return  # the same question may be asked with other choices
    by_prompt: dict[str, set[str]] = {}
    for row in splits.train:
        by_prompt.setdefault(row_text(task, row), set()).add(answer_text(task, row))
    disagreeing = sum(len(answers) > 1 for answers in by_prompt.values())
    if disagreeing:
        yield f"{count(disagreeing, 'prompt')} of train stand there with different answers"


def _about_labels(facts: Mapping[str, SplitFacts]) -> Iterable[str]:
    for name in SPLITS:
        part = facts[name]
        if not part.rows:
            continue
        present = {word: n for word, n in part.labels.items() if n}
        missing = [word for word in part.labels if word not in present]
        commonest = max(present, key=lambda word: present[word])
        share = present[commonest] / part.rows
        if len(present) == 1:
            yield f"{name} has one label only, {commonest!r}"
        elif missing:
            shown = ", ".join(map(repr, missing[:5]))
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            yield f"{name} has no row labelled {shown}{more}"
        if len(present) > 1 and share >= IMBALANCED:
            yield (
                f"{share:.0%} of {name} is labelled {commonest!r}: accuracy says little here, "
                "compare it with the majority guess"
            )


def _about_tokens(task: PromptedTask, splits: Splits, tokenizer: Any) -> Iterable[str]:
    """What only tokens show; what a sweep would refuse is refused."""
    rows = [
        row for name in SPLITS for row in first_by_hash(task, getattr(splits, name), ROWS_ENCODED)
    ]
    if isinstance(task, GenerationTask):
        for row in rows:
            encode_writing(task, row, tokenizer, ANY_LENGTH)
    if not isinstance(task, ChoiceTask):
        return
    questions = [encode_question(task, row, tokenizer, ANY_LENGTH) for row in rows]
    if task.words:
        return
    of = f"of {len(rows)} rows looked at"
    end = tokenizer.eos_token_id
    closed = sum(all(tail[-1] == end for tail in q.continuations) for q in questions)
    if closed:
        yield (
            f"{closed} {of} have a choice that is how another one begins: each choice of such a "
            "row is learnt and scored with an end of the text"
        )
    alike = sum(not question.is_answerable for question in questions)
    if alike:
        yield (
            f"{alike} {of} have a choice that reads like the right one, as text or to this "
            "tokenizer: such rows are left out"
        )
    prompts = [encode_prompt(task, row, tokenizer, ANY_LENGTH) for row in rows]
    joined = sum(len(q.prompt) < len(p) for q, p in zip(questions, prompts, strict=True))
    if joined:
        yield (
            f"in {joined} {of} the tokenizer joins the end of the prompt to a choice: the choices "
            "of such a row begin with what is joined"
        )


def _about_words(task: PromptedTask, tokenizer: Any) -> Iterable[str]:
    words = [word.lstrip() for word in task.words] if task.template == "chat" else task.words
    if tokenizer is None:
        first = {word: word.split()[:1] for word in words}
        same = _sharing(first)
        if same:
            yield f"label words begin with the same word: {same}"
        for word, other in words_that_begin_others(task):
            yield (
                f"the label word {word!r} is how {other!r} begins: if it is so in tokens too, the "
                "task is refused, as the longer one could never be the answer; --model tells"
            )
        return
    tokens = {word: list(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words}
    same = _sharing({word: ids[:1] for word, ids in tokens.items()})
    if same:
        yield (
            f"label words share their first token, so they cost more and differ in later ones "
            f"only: {same}"
        )
    sizes = {word: len(ids) for word, ids in tokens.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{word!r} {size}" for word, size in list(sizes.items())[:6])
        more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
        yield (
            f"label words differ in their number of tokens ({shown}{more}); longer ones are less "
            "likely to start with, `metric: accuracy_norm` divides by their length"
        )


def _sharing(first: Mapping[str, Sequence[Any]]) -> str:
    """Words that begin alike, or nothing."""
    groups: dict[Any, list[str]] = {}
    for word, beginning in first.items():
        groups.setdefault(tuple(beginning), []).append(word)
    alike = [words for words in groups.values() if len(words) > 1]
    shown = "; ".join(", ".join(map(repr, words[:4])) for words in alike[:3])
    return shown + ("; ..." if len(alike) > 3 else "")


def _about_references(task: GenerationTask, splits: Splits, tokenizer: Any) -> Iterable[str]:
    rows = first_by_hash(task, splits.validation, ROWS_TOKENISED)
    references = [str(row[task.target_column]) for row in rows]
    if task.answer == "final_number":
        without = sum(re.search(r"\d", text) is None for text in references)
        if without:
            yield f"{count(without, 'reference')} of validation hold no number to compare"
    stopped = sum(any(stop in text.strip() for stop in task.stop) for text in references)
    if stopped:
        yield (
            f"{count(stopped, 'reference')} of validation hold a text of `stop`, so what the model "
            "writes can never equal them"
        )
    if tokenizer is not None:
        sizes = [len(i) for i in tokenizer(references, add_special_tokens=False)["input_ids"]]
        longer = sum(size > task.max_new_tokens for size in sizes)
        if longer:
            yield (
                f"{longer} of {len(sizes)} references are longer than `max_new_tokens` "
                f"{task.max_new_tokens}; the longest has {max(sizes)} tokens"
            )
