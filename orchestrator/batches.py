"""From task files to token ids: splits, prompts, questions, windows. Done once, by the driver.

Workers receive numbers, not text: every trial of a sweep trains and is scored on exactly the same
tokens, and no trial pays for reading or tokenising again.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from orchestrator.experiment import DataLimits, LoadedExperiment, fingerprint
from orchestrator.sources import DataError, Row, read_split
from orchestrator.tasks import (
    ClassificationTask,
    LanguageModellingTask,
    MultipleChoiceTask,
    TaskSpec,
    suggestion,
)

Tokens: TypeAlias = tuple[int, ...]

DERIVED_VALIDATION_SHARE = 10
"""A derived validation split is one row in this many of train."""
DERIVED_VALIDATION_ROWS = 1000
"""... and at most this many rows."""


@dataclass(frozen=True)
class Example:
    """One training sequence: the tokens from `scored_from` on are what is learnt."""

    tokens: Tokens
    scored_from: int
    """Index of the first scored token, at least 1 (nothing predicts the first token)."""


@dataclass(frozen=True)
class Question:
    """One prompt with its alternatives; classification and multiple choice alike."""

    prompt: Tokens
    continuations: tuple[Tokens, ...]
    lengths: tuple[int, ...]
    """Length of each continuation in UTF-8 bytes (leading space excluded)."""
    answer: int
    """Index of the right continuation, counted from 0."""


@dataclass(frozen=True)
class Window:
    """A stretch of running text."""

    tokens: Tokens
    scored_from: int
    num_bytes: int
    """UTF-8 bytes of the scored text."""


Item: TypeAlias = Question | Window


@dataclass(frozen=True)
class Scored:
    """One model input with the places where a probability is read."""

    tokens: Tokens
    picks: tuple[tuple[int, int], ...]
    """Pairs (position whose output is read, token whose log-probability is wanted)."""


@dataclass(frozen=True)
class PreparedTask:
    """A task as token ids."""

    name: str
    spec: TaskSpec
    train: tuple[Example, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    labels: tuple[str, ...] = ()
    """Label values of a classification task, in the order of the continuations."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts, split origins and controls, for the records."""

    @property
    def is_language_modelling(self) -> bool:
        """Whether the task is running text."""
        return isinstance(self.spec, LanguageModellingTask)


@dataclass(frozen=True)
class PreparedData:
    """Every task and probe of an experiment, ready to be shipped to workers."""

    tasks: dict[str, PreparedTask]
    hashes: dict[str, str]
    """Fingerprint of each task's token ids and settings."""
    controls: dict[str, dict[str, Any]]
    """Facts of each task, majority-class accuracy among them."""


# --- splits --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Splits:
    """The rows of a task and where they came from."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    origins: dict[str, str]
    overlaps_removed: int
    left_out: int
    """Rows whose label the task maps to null."""


def split_rows(task: TaskSpec, read: Callable[[str], list[Row] | None]) -> Splits:
    """Read the three splits of a task, deriving what the source lacks.

    A missing validation split is a hash-chosen tenth of train (at most 1,000 rows). A missing or
    unlabelled test split means that the public validation split becomes test and validation is
    cut from train. Rows of train that also stand in validation or test are removed and counted.

    Args:
        task: The task.
        read: Gives the rows of a split of the source, or None.

    Returns:
        The splits.

    Raises:
        DataError: If there is nothing to measure the task on.
    """
    found: dict[str, list[Row]] = {}
    origins: dict[str, str] = {}
    left_out = 0
    for split, origin in task.splits.model_dump().items():
        rows = read(origin) if origin is not None else None
        if rows and isinstance(task, ClassificationTask):
            wanted = [
                r for r in rows if task.labels.get(str(r.get(task.label_column)), "") is not None
            ]
            left_out += len(rows) - len(wanted)
            rows = wanted
        if rows and split == "test" and not _labelled(task, rows):
            rows = None
        if rows:
            found[split], origins[split] = rows, f"{origin} of the source"
    train = found.get("train", [])
    validation, test = found.get("validation"), found.get("test")
    if test is None and validation is not None and train:
        test, validation = validation, None
        origins["test"] = f"{task.splits.validation} of the source (it has no labelled test split)"
    if validation is None and train:
        chosen = _hashed_tenth(task, train)
        validation = [row for row, inside in zip(train, chosen, strict=True) if inside]
        train = [row for row, inside in zip(train, chosen, strict=True) if not inside]
        origins["validation"] = "a tenth of train, chosen by hash"
    if validation is None:
        validation, test = test, None
        origins["validation"] = origins.pop("test", "none")
    if not validation:
        raise DataError(
            f"Task {task.name!r}: no validation split and nothing to cut one from; "
            f"`splits` names {task.splits.model_dump()}, found {sorted(found) or 'nothing'}."
        )
    held_out = {row_text(task, row) for row in (*validation, *(test or []))}
    kept = (
        train
        if isinstance(task, LanguageModellingTask)
        else [row for row in train if row_text(task, row) not in held_out]
    )
    return Splits(kept, validation, test or [], origins, len(train) - len(kept), left_out)


def _labelled(task: TaskSpec, rows: Sequence[Row]) -> bool:
    """Whether a split carries answers (public test sets often carry -1 instead)."""
    if isinstance(task, LanguageModellingTask):
        return True
    column = task.label_column if isinstance(task, ClassificationTask) else task.answer_column
    return all(row.get(column) not in {-1, "-1", None, ""} for row in rows)


def _digest(text: str, purpose: str) -> int:
    return int(hashlib.sha1(f"{purpose}\0{text}".encode()).hexdigest()[:12], 16)


def _hashed_tenth(task: TaskSpec, rows: Sequence[Row]) -> list[bool]:
    digests = [_digest(row_text(task, row), "validation") for row in rows]
    inside = sorted(d for d in digests if d % DERIVED_VALIDATION_SHARE == 0)
    if not inside:
        inside = sorted(digests)[: max(1, len(rows) // DERIVED_VALIDATION_SHARE)]
    chosen = set(inside[:DERIVED_VALIDATION_ROWS])
    return [digest in chosen for digest in digests]


def row_text(task: TaskSpec, row: Row) -> str:
    """What a row asks, as text: the rendered prompt, or the text itself.

    Args:
        task: The task.
        row: One row with canonical column names.

    Returns:
        The text.

    Raises:
        DataError: If the row lacks a column that the prompt names.
    """
    if isinstance(task, LanguageModellingTask):
        return str(_column(task, row, task.text_column))
    try:
        return task.prompt.format_map(row)
    except KeyError as error:
        name = str(error.args[0])
        raise DataError(
            f"Task {task.name!r}: the prompt names the column {name!r}, which a row does not have."
            f"{suggestion(name, [str(k) for k in row])} Its columns: {sorted(row)}."
        ) from None


def _column(task: TaskSpec, row: Row, name: str) -> Any:
    if name not in row:
        raise DataError(
            f"Task {task.name!r}: a row has no column {name!r}."
            f"{suggestion(name, [str(k) for k in row])} Its columns: {sorted(row)}."
        )
    return row[name]


# --- tokens --------------------------------------------------------------------------------------


def encode_question(task: TaskSpec, row: Row, tokenizer: Any, max_length: int) -> Question:
    """A row as token ids.

    Prompt and continuation are tokenised together and cut where the prompt ends, so that the
    continuation's tokens are those the model would see in running text. A prompt that does not fit
    loses its beginning.

    Args:
        task: A classification or multiple-choice task.
        row: One row with canonical column names.
        tokenizer: A Hugging Face tokenizer.
        max_length: Tokens of prompt and longest continuation together.

    Returns:
        The question.

    Raises:
        DataError: If the row's answer is not among its alternatives, or these do not fit.
    """
    prompt_text = row_text(task, row)
    texts = _continuation_texts(task, row)
    prompt = _encode(tokenizer, prompt_text)
    continuations: list[Tokens] = []
    for text in texts:
        whole = _encode(tokenizer, prompt_text + text)
        tail = whole[len(prompt) :]
        if not tail:
            raise DataError(
                f"Task {task.name!r}: the continuation {text!r} adds no token to its prompt. "
                "Give it at least one word of its own."
            )
        continuations.append(tail)
    room = max_length - max(len(tail) for tail in continuations)
    if room < 1:
        raise DataError(
            f"Task {task.name!r}: a continuation takes "
            f"{max(len(tail) for tail in continuations)} tokens, which leaves no room for a prompt "
            f"in `training.max_length` {max_length}. Raise it."
        )
    if len(prompt) > room:
        begins_with_bos = prompt[0] == tokenizer.bos_token_id
        prompt = (prompt[0], *prompt[len(prompt) - room + 1 :]) if begins_with_bos else prompt[
            len(prompt) - room :
        ]  # fmt: skip
    return Question(
        prompt=prompt,
        continuations=tuple(continuations),
        lengths=tuple(len(text.strip().encode()) for text in texts),
        answer=_answer(task, row, len(texts)),
    )


def _encode(tokenizer: Any, text: str) -> Tokens:
    tokens = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    if tokens and tokenizer.eos_token_id is not None and tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()  # some tokenizers close every text; ours goes on
    if not tokens:
        raise DataError(f"The text {text!r} has no tokens, so nothing can follow it.")
    return tuple(tokens)


def _continuation_texts(task: TaskSpec, row: Row) -> list[str]:
    if isinstance(task, ClassificationTask):
        return task.words
    if not isinstance(task, MultipleChoiceTask):
        raise TypeError(f"A {type(task).__name__} has no continuations.")
    choices = _column(task, row, task.choices_column)
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise DataError(
            f"Task {task.name!r}: `{task.choices_column}` must hold at least two choices, "
            f"got {choices!r}."
        )
    return [task.continuation.format(choice=choice) for choice in choices]


def _answer(task: TaskSpec, row: Row, count: int) -> int:
    if isinstance(task, ClassificationTask):
        value = str(_column(task, row, task.label_column))
        known = list(task.labels)
        if value not in task.labels:
            raise DataError(
                f"Task {task.name!r}: the label {value!r} of a row is not among the task's "
                f"`labels` {known}.{suggestion(value, known)}"
            )
        word = task.labels[value]
        if word is None:
            raise DataError(f"Task {task.name!r}: rows labelled {value!r} are left out.")
        return task.words.index(word)
    if not isinstance(task, MultipleChoiceTask):
        raise TypeError(f"A {type(task).__name__} has no answer.")
    value = _column(task, row, task.answer_column)
    names = row.get("answer_labels")
    if names is not None and value in names:
        return list(names).index(value)
    if not str(value).isdigit() or not 0 <= int(value) < count:
        raise DataError(
            f"Task {task.name!r}: the answer {value!r} of a row is not an index into its {count} "
            "choices, counted from 0."
        )
    return int(value)


def example_of(question: Question) -> Example:
    """The training sequence of a question: its prompt and right continuation."""
    right = question.continuations[question.answer]
    return Example(question.prompt + right, len(question.prompt))


def encode_windows(
    text: str, tokenizer: Any, *, length: int, limit: int | None
) -> tuple[Window, ...]:
    """Running text cut into windows that do not overlap.

    When the tokenizer opens a text with a special token, so does every window, and all of the
    window's text is scored; otherwise the window's first token is context only.

    Args:
        text: The text.
        tokenizer: A Hugging Face tokenizer.
        length: Tokens per window, the opening token included.
        limit: Text tokens in all; None for every one.

    Returns:
        The windows; a last one of fewer than two tokens is left out.
    """
    opening = _opening(tokenizer)
    # Eight bytes a token is generous for every tokenizer; so a long text is not tokenised whole.
    used = text if limit is None else text[: 8 * limit]
    tokens = tuple(tokenizer(used, add_special_tokens=False)["input_ids"])[:limit]
    step = length - len(opening)
    windows: list[Window] = []
    for start in range(0, len(tokens), step):
        body = tokens[start : start + step]
        scored = body if opening else body[1:]
        if not scored or len(opening) + len(body) < 2:
            continue
        num_bytes = len(tokenizer.decode(list(scored)).encode())
        windows.append(Window(opening + body, 1, num_bytes))
    return tuple(windows)


def _opening(tokenizer: Any) -> Tokens:
    """The special tokens that the tokenizer puts before a text, closing ones removed."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    return tuple(whole[: whole.index(plain[0])]) if plain and plain[0] in whole else ()


# --- preparing -----------------------------------------------------------------------------------


def prepare(
    loaded: LoadedExperiment,
    tokenizer: Any,
    *,
    note: Callable[[str], None] | None = None,
) -> PreparedData:
    """Read, split, limit and tokenise every task and probe of an experiment.

    Args:
        loaded: The experiment and its tasks.
        tokenizer: The base model's tokenizer.
        note: Told what is being done.

    Returns:
        The data for the workers.
    """
    tasks: dict[str, PreparedTask] = {}
    for name, spec in loaded.tasks.items():
        if note is not None:
            note(f"tokenising {name}")
        tasks[name] = prepare_task(
            spec,
            tokenizer,
            loaded.experiment.data,
            max_length=loaded.experiment.training.max_length,
            learnt=name in loaded.experiment.tasks,
        )
    return PreparedData(
        tasks=tasks,
        hashes={name: _fingerprint_task(task) for name, task in tasks.items()},
        controls={name: task.facts for name, task in tasks.items()},
    )


def prepare_task(
    spec: TaskSpec, tokenizer: Any, limits: DataLimits, *, max_length: int, learnt: bool
) -> PreparedTask:
    """One task as token ids.

    Args:
        spec: The task.
        tokenizer: The base model's tokenizer.
        limits: How much of the data is used.
        max_length: Tokens per example or window.
        learnt: Whether the task is learnt (it then needs training rows) or only measured.

    Returns:
        The prepared task.

    Raises:
        DataError: If a learnt task has no training rows.
    """
    splits = split_rows(spec, lambda name: read_split(spec.data, name))
    if learnt and not splits.train:
        raise DataError(
            f"Task {spec.name!r} has no training rows, so it cannot be learnt; "
            "name it under `probes` instead of `tasks`."
        )
    facts: dict[str, Any] = {
        "rows": {
            "train": len(splits.train),
            "validation": len(splits.validation),
            "test": len(splits.test),
        },
        "origins": splits.origins,
        "overlaps_removed": splits.overlaps_removed,
    }
    if isinstance(spec, LanguageModellingTask):
        return _prepare_text(spec, splits, tokenizer, limits, max_length, learnt, facts)
    train_rows = _first_by_hash(spec, splits.train, limits.train_examples) if learnt else []
    validation_rows = _first_by_hash(spec, splits.validation, limits.validation_examples)
    test_rows = _first_by_hash(spec, splits.test, limits.test_examples)

    facts["rows_left_out"] = splits.left_out

    def encode(rows: Sequence[Row]) -> list[Question]:
        return [encode_question(spec, row, tokenizer, max_length) for row in rows]

    train, validation, test = encode(train_rows), encode(validation_rows), encode(test_rows)
    everything = [*train, *validation]
    longest = [len(q.prompt) + max(len(c) for c in q.continuations) for q in everything]
    facts |= {
        "train_examples": len(train),
        "validation_examples": len(validation),
        "test_examples": len(test),
        "prompts_at_max_length": sum(length == max_length for length in longest),
        "mean_tokens": round(sum(longest) / len(longest), 1),
        "train_tokens": sum(len(example_of(q).tokens) for q in train),
        "validation_tokens": sum(len(row.tokens) for q in validation for row in scored_rows(q)),
        "chance": sum(1 / len(q.continuations) for q in validation) / len(validation),
    }
    labels: tuple[str, ...] = ()
    if isinstance(spec, ClassificationTask):
        labels = tuple(spec.label_values)
        # The majority class is learnt from train where there is one: a fair rival may not peek.
        reference = train or validation
        counts = Counter(q.answer for q in reference)
        majority = max(counts, key=lambda answer: (counts[answer], -answer))
        facts |= {
            "majority": sum(q.answer == majority for q in validation) / len(validation),
            "majority_label": labels[majority],
            "label_counts": {
                labels[a]: n for a, n in sorted(Counter(q.answer for q in validation).items())
            },
        }
    return PreparedTask(
        name=spec.name,
        spec=spec,
        train=tuple(example_of(q) for q in train),
        validation=tuple(validation),
        test=tuple(test),
        labels=labels,
        facts=facts,
    )


def _prepare_text(
    spec: LanguageModellingTask,
    splits: Splits,
    tokenizer: Any,
    limits: DataLimits,
    max_length: int,
    learnt: bool,
    facts: dict[str, Any],
) -> PreparedTask:
    def windows(rows: Sequence[Row], length: int, limit: int | None) -> tuple[Window, ...]:
        text = spec.joiner.join(row_text(spec, row) for row in rows)
        return encode_windows(text, tokenizer, length=length, limit=limit)

    context = limits.probe_context
    validation = windows(splits.validation, context, limits.probe_tokens)
    if not validation:
        raise DataError(f"Task {spec.name!r}: the validation text has fewer than two tokens.")
    train = windows(splits.train, max_length, None)[: limits.train_examples] if learnt else ()
    facts |= {
        "train_examples": len(train),
        "validation_examples": len(validation),
        "test_examples": 0,
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
        test=windows(splits.test, context, limits.probe_tokens) if splits.test else (),
        facts=facts,
    )


def _first_by_hash(task: TaskSpec, rows: Sequence[Row], limit: int | None) -> list[Row]:
    """The first rows in an order fixed by their text: the same ones whatever the file's order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return sorted(rows, key=lambda row: _digest(row_text(task, row), "sample"))[:limit]


def _fingerprint_task(task: PreparedTask) -> str:
    tokens = hashlib.sha256()
    for part in (task.train, task.validation, task.test):
        tokens.update(repr(part).encode())
    return fingerprint([task.spec.model_dump(mode="json", exclude={"data"}), tokens.hexdigest()])


# --- what the model is given ----------------------------------------------------------------------


def scored_rows(item: Item) -> tuple[Scored, ...]:
    """The model inputs that answer an item, as few as possible.

    A continuation's last token is never an input, and continuations share an input where one's
    tokens begin with the other's: single-token labels cost one input a question, however many.
    The picks of all rows, in order, are grouped by `pick_owners`.

    Args:
        item: A question or a window.

    Returns:
        The rows, in a fixed order.
    """
    if isinstance(item, Window):
        picks = tuple(
            (position - 1, item.tokens[position])
            for position in range(item.scored_from, len(item.tokens))
        )
        return (Scored(item.tokens[:-1], picks),)
    return tuple(
        Scored(item.prompt + inputs, tuple(pick for pick, _ in picks))
        for inputs, picks in _shared_inputs(item)
    )


def pick_owners(question: Question) -> tuple[int, ...]:
    """For each pick of `scored_rows(question)`, in order, the continuation it belongs to."""
    return tuple(owner for _, picks in _shared_inputs(question) for _, owner in picks)


def _shared_inputs(
    question: Question,
) -> list[tuple[Tokens, list[tuple[tuple[int, int], int]]]]:
    inputs: list[Tokens] = []
    for tail in sorted((c[:-1] for c in question.continuations), key=len, reverse=True):
        if not any(longer[: len(tail)] == tail for longer in inputs):
            inputs.append(tail)
    rows: list[tuple[Tokens, list[tuple[tuple[int, int], int]]]] = [(tail, []) for tail in inputs]
    last = len(question.prompt) - 1
    for owner, continuation in enumerate(question.continuations):
        home = next(
            index for index, tail in enumerate(inputs)
            if tail[: len(continuation) - 1] == continuation[:-1]
        )  # fmt: skip
        rows[home][1].extend(
            ((last + offset, token), owner) for offset, token in enumerate(continuation)
        )
    return rows


def epoch_batches(
    examples: Sequence[Example], batch_size: int, *, seed: int, epochs: int
) -> list[tuple[Example, ...]]:
    """The optimiser steps of one task: shuffled, then bucketed by length.

    Examples are shuffled, sorted by length inside stretches of 16 batches, cut into batches, and
    the batches shuffled again: little padding, and an order that depends on nothing but the seed.

    Args:
        examples: The task's training examples.
        batch_size: Examples per optimiser step, over all workers.
        seed: Seed of the order; each epoch draws its own.
        epochs: Passes over the examples.

    Returns:
        One tuple of examples per optimiser step; the last of an epoch may be smaller.
    """
    steps: list[tuple[Example, ...]] = []
    for epoch in range(epochs):
        generator = random.Random(f"{seed}/{epoch}")
        order = list(examples)
        generator.shuffle(order)
        batches: list[tuple[Example, ...]] = []
        stretch = 16 * batch_size
        for start in range(0, len(order), stretch):
            part = sorted(order[start : start + stretch], key=lambda e: len(e.tokens))
            batches += [tuple(part[i : i + batch_size]) for i in range(0, len(part), batch_size)]
        generator.shuffle(batches)
        steps += batches
    return steps
