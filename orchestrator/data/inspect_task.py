"""What a task file makes of its data, before anything is trained on it.

Rows, splits and where they come from, rendered prompts with their right continuation, what a
constant guess would score, and whatever looks wrong.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.data.formats.placed_row import Row
from orchestrator.data.inspect_facts import (
    ROWS_TOKENISED,
    SPLITS,
    Lengths,
    Sample,
    SplitFacts,
    TaskCheck,
    answer_text,
    choices_and_answer,
    first_by_hash,
)
from orchestrator.data.inspect_warnings import task_warnings
from orchestrator.data.prompt_tokens import refuse_unknown_ids
from orchestrator.data.prompts import continuation_texts, rendered_prompt, row_text
from orchestrator.data.sources.reading import read_split
from orchestrator.data.splits import split_rows
from orchestrator.spec.task_files import TaskFileError, load_task, task_files
from orchestrator.spec.task_kinds import (
    ChoiceTask,
    LanguageModellingTask,
    PromptedTask,
    TaskSpec,
)


def check_task(
    task: TaskSpec,
    tokenizer: Any = None,
    max_length: int | None = None,
    *,
    samples: int = 3,
    vocabulary: int | None = None,
) -> TaskCheck:
    """Read a task's data and say what they are and what looks wrong.

    Args:
        task: The task.
        tokenizer: A Hugging Face tokenizer; without one, nothing is said about tokens.
        max_length: Tokens that a trial gives to one example.
        samples: Rows to render.
        vocabulary: Rows of the base's embedding; None where they are not known.

    Returns:
        The facts.

    Raises:
        DataError: If the data are missing or wrong, or do not fit the task.
    """
    splits = split_rows(task, lambda name: read_split(task.data, name))
    rows = {name: list(getattr(splits, name)) for name in SPLITS}
    facts = {
        name: SplitFacts(
            rows=len(part),
            origin=splits.origins.get(name, "none"),
            duplicates=len(part) - len({row_text(task, row) for row in part}),
            labels=_labels(task, part),
            characters=_characters(task, part),
            tokens=_tokens(task, part, tokenizer, max_length, vocabulary),
        )
        for name, part in rows.items()
    }
    reference, scored = facts["train" if rows["train"] else "validation"], facts["validation"]
    majority = None
    if task.words and reference.labels:
        commonest = max(reference.labels, key=lambda word: reference.labels[word])
        majority = scored.labels[commonest] / scored.rows
    return TaskCheck(
        name=task.name,
        kind=task.kind,
        head=getattr(task, "head", None),
        description=task.description,
        place=_place(task),
        splits=facts,
        samples=_samples(task, rows, tokenizer, samples),
        overlaps_removed=splits.overlaps_removed,
        left_out=splits.left_out,
        incomplete=splits.incomplete,
        majority=majority,
        chance=_chance(task, rows["validation"]),
        max_length=max_length if tokenizer is not None else None,
        words=task.values_of_words,
        warnings=tuple(task_warnings(task, splits, facts, tokenizer, max_length)),
    )


def _place(task: TaskSpec) -> str:
    if task.data.files is not None:
        return task.data.files
    parts = [str(task.data.hub), task.data.config, task.data.revision]
    return " ".join(part for part in parts if part)


def _labels(task: TaskSpec, rows: Sequence[Row]) -> dict[str, int]:
    if not isinstance(task, ChoiceTask):
        return {}
    counts = Counter(choices_and_answer(task, row)[1] for row in rows)
    if task.words:
        return {word: counts[index] for index, word in enumerate(task.words)}
    return {f"choice {position + 1}": n for position, n in sorted(counts.items())}


def _chance(task: TaskSpec, rows: Sequence[Row]) -> float | None:
    if not isinstance(task, ChoiceTask):
        return None
    if task.words:
        return 1 / len(task.words)
    return statistics.fmean(1 / len(choices_and_answer(task, row)[0]) for row in rows)


def _characters(task: TaskSpec, rows: Sequence[Row]) -> Lengths | None:
    if not rows:
        return None
    lengths = [
        len(row_text(task, row))
        + (len(answer_text(task, row)) if isinstance(task, PromptedTask) else 0)
        for row in rows
    ]
    return Lengths(len(rows), statistics.median(lengths), max(lengths))


def _tokens(
    task: TaskSpec,
    rows: Sequence[Row],
    tokenizer: Any,
    max_length: int | None,
    vocabulary: int | None,
) -> Lengths | None:
    if not rows or tokenizer is None:
        return None
    chosen = first_by_hash(task, rows, ROWS_TOKENISED)
    if not isinstance(task, PromptedTask):
        texts, special = [row_text(task, row) for row in chosen], False
    else:
        texts = [
            rendered_prompt(task, row, tokenizer)
            + max(continuation_texts(task, row), key=len) * (not task.has_head)
            for row in chosen
        ]
        special = task.template == "raw"  # a chat template writes the special tokens itself
    tokens = tokenizer(texts, add_special_tokens=special)["input_ids"]
    refuse_unknown_ids(task.name, itertools.chain(*tokens), tokenizer, vocabulary)
    lengths = [len(ids) for ids in tokens]
    windows = isinstance(task, LanguageModellingTask)  # text is cut into windows, nothing is lost
    over = None if windows or max_length is None else sum(n > max_length for n in lengths)
    return Lengths(len(chosen), statistics.median(lengths), max(lengths), over)


def _samples(
    task: TaskSpec, rows: Mapping[str, Sequence[Row]], tokenizer: Any, wanted: int
) -> tuple[Sample, ...]:
    """Rows of train, of different labels where there are such, else of validation."""
    split = "train" if rows["train"] else "validation"
    different = {row_text(task, row): row for row in rows[split]}
    candidates = first_by_hash(task, list(different.values()), 200)
    if not isinstance(task, PromptedTask):
        texts = [row_text(task, row) for row in candidates]
        return tuple(Sample(split, text, "") for text in texts if text.strip())[:wanted]
    shown: list[Sample] = []
    for row in candidates:
        others = choices_and_answer(task, row)[0] if isinstance(task, ChoiceTask) else ()
        answer = answer_text(task, row)
        prompt = (
            row_text(task, row)
            if tokenizer is None and task.template == "chat"
            else rendered_prompt(task, row, tokenizer)
        )
        rest = tuple(text for text in others if text != answer and not task.words)
        shown.append(Sample(split, prompt, answer, rest))
    # One of each label first; the order among equals stays that of the hash.
    met: Counter[str] = Counter()
    ranked: list[tuple[int, int, Sample]] = []
    for number, sample in enumerate(shown):
        ranked.append((met[sample.continuation], number, sample))
        met[sample.continuation] += 1
    return tuple(sample for _, _, sample in sorted(ranked, key=lambda entry: entry[:2])[:wanted])


def list_tasks(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The tasks in some folders; the first folder wins where a name is there twice.

    Args:
        folders: Folders of task files; those that do not exist are passed over.

    Returns:
        A record of each task, by name, and a message for each file that is not a task.
    """
    found: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    for folder in folders:
        for path in task_files(folder):
            if path.stem in found:
                continue
            try:
                task = load_task(path)
            except TaskFileError as error:
                wrong.append(str(error))
                continue
            found[path.stem] = {
                "name": path.stem,
                "kind": task.kind,
                "metric": task.metric,
                "description": " ".join(task.description.split()),
                "data": _place(task),
                "file": str(path),
            }
    return [found[name] for name in sorted(found)], wrong
