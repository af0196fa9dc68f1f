"""From task files to batches: splits, limits, facts, optimiser steps. Done once, by the driver.

Workers receive numbers, not text: every trial of a sweep trains and is scored on exactly the same
tokens, and no trial pays for reading or tokenising again.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.content_cache import ContentCache
from orchestrator.encoding import (
    Example,
    Item,
    Question,
    Tokens,
    Window,
    Writing,
    encode_question,
    encode_windows,
    encode_writing,
    example_of,
    refuse_unknown_ids,
    row_text,
    token_ids,
)
from orchestrator.experiment import (
    DataLimits,
    Experiment,
    LoadedExperiment,
    fingerprint,
    possible_methods,
)
from orchestrator.sources import DataError, Row, naming_file, read_split, source_sha256
from orchestrator.splits import Splits, held_by_others, row_marks, split_rows, text_digest
from orchestrator.tasks import (
    ClassificationTask,
    GenerationTask,
    LanguageModellingTask,
    TaskSpec,
)


@dataclass(frozen=True)
class Scored:
    """One model input with the places where a probability is read."""

    tokens: Tokens
    picks: tuple[tuple[int, int], ...]
    """Pairs (position whose output is read, token or label whose log-probability is wanted)."""
    head: str | None = None
    """The task whose linear head is read; None: the model's own output layer."""


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

    @property
    def has_head(self) -> bool:
        """Whether a linear head answers, so that there is nothing to score before it is learnt."""
        return isinstance(self.spec, ClassificationTask) and self.spec.head == "linear"


@dataclass(frozen=True)
class PreparedData:
    """Every task and probe of an experiment, ready to be shipped to workers."""

    tasks: dict[str, PreparedTask]
    hashes: dict[str, str]
    """Of each task, a hash of what it is made of: the token ids of its rows, whatever file or hub
    they came from."""
    controls: dict[str, dict[str, Any]]
    """Facts of each task, majority-class accuracy among them."""


# --- preparing -----------------------------------------------------------------------------------


def prepare(
    loaded: LoadedExperiment,
    tokenizer: Any,
    *,
    note: Callable[[str], None] | None = None,
    cache: ContentCache | None = None,
    tokenizer_sha256: str | None = None,
    vocabulary: int | None = None,
) -> PreparedData:
    """Read, split, limit and tokenise every task and probe of an experiment.

    Args:
        loaded: The experiment and its tasks.
        tokenizer: The base model's tokenizer.
        note: Told what is being done.
        cache: Where tasks are kept that were prepared before from the same files in the same way.
        tokenizer_sha256: What tells the tokenizer from others; None: nothing is kept.
        vocabulary: Rows of the base's embedding; None where they are not known.

    Returns:
        The data for the workers.

    Raises:
        DataError: If a task's data are missing or wrong, or have tokens that the base lacks.
    """
    tasks: dict[str, PreparedTask] = {}
    held = held_by_others(loaded.tasks, read_split)
    sources = {name for m in possible_methods(loaded.experiment) for name in m.sources}
    for name, spec in loaded.tasks.items():
        manner: dict[str, Any] = {
            "max_length": loaded.experiment.training.max_length,
            "learnt": name in loaded.experiment.tasks,
            "source": name in sources,
        }
        if name in held:
            manner["held"] = held[name]
        key = _cache_key(spec, loaded.experiment.data, manner, tokenizer_sha256) if cache else None
        kept = cache.read("task", key) if cache is not None and key is not None else None
        if kept is not None:
            if note is not None:
                note(f"{name} was tokenised before")
            tasks[name] = task_from_document(kept, spec)
            continue
        if note is not None:
            note(f"tokenising {name}")
        with naming_file(loaded.task_files.get(name)):
            tasks[name] = prepare_task(spec, tokenizer, loaded.experiment.data, **manner)
        if cache is not None and key is not None:
            cache.write("task", key, task_as_document(tasks[name]))
    for name, task in tasks.items():
        ids = (i for item in (*task.train, *task.validation, *task.test) for i in token_ids(item))
        with naming_file(loaded.task_files.get(name)):
            refuse_unknown_ids(task.name, ids, tokenizer, vocabulary)
        if note is not None:
            for text in _to_be_said(task, learnt=name in loaded.experiment.tasks):
                note(f"{name}: {text}")
    _check_held_out(loaded.experiment, tasks)
    return PreparedData(
        tasks=tasks,
        hashes={name: _tokens_sha256(task) for name, task in tasks.items()},
        controls={name: task.facts for name, task in tasks.items()},
    )


def _to_be_said(task: PreparedTask, *, learnt: bool) -> Iterator[str]:
    """What is missing of a task though it can be learnt."""
    if task.facts.get("held_by_others"):
        yield (
            f"{task.facts['held_by_others']} rows of train are held out by another task over the "
            "same source, and are not learnt"
        )
    if learnt and "head_only" in task.facts:
        yield f"the control head-only {task.facts['head_only']}"


def _check_held_out(experiment: Experiment, tasks: Mapping[str, PreparedTask]) -> None:
    """Refuse to stop early on examples that were held out, where there are none to hold out."""
    if all(method.early_stopping is None for method in possible_methods(experiment)):
        return
    for name in experiment.tasks:
        if len(tasks[name].train) < 2:
            raise DataError(
                f"Task {name!r} has {len(tasks[name].train)} training example, and "
                "`method.early_stopping` needs two at least: one to learn and one to hold out. "
                "Bring more (`data.train_examples` may limit them), or set `early_stopping: null`."
            )


def _cache_key(
    spec: TaskSpec, limits: DataLimits, manner: dict[str, Any], tokenizer_sha256: str | None
) -> dict[str, Any] | None:
    """Everything that a prepared task follows from; None where that cannot be known."""
    rows = source_sha256(spec.data)
    if rows is None or tokenizer_sha256 is None:
        return None
    places = {"hub", "config", "revision", "files", "local_name"}
    if "held" in manner:
        manner = manner | {"held": fingerprint(sorted(manner["held"]))}
    return {
        "task": spec.model_dump(
            mode="json", exclude={"data": places, "description": True, "source": True}
        ),
        "rows": rows,
        "tokenizer": tokenizer_sha256,
        "limits": limits.model_dump(
            mode="json", exclude={"rung_examples", "batch_tokens", "probe_after"}
        ),
        **manner,
    }


_ITEMS: dict[str, type[Item]] = {"question": Question, "window": Window, "writing": Writing}


def task_as_document(task: PreparedTask) -> dict[str, Any]:
    """A prepared task as JSON, its spec left out."""
    names = {kind: name for name, kind in _ITEMS.items()}
    return {
        "name": task.name,
        "train": [list(vars(example).values()) for example in task.train],
        **{
            split: [[names[type(item)], *vars(item).values()] for item in getattr(task, split)]
            for split in ("validation", "test")
        },
        "labels": task.labels,
        "facts": task.facts,
    }


def task_from_document(document: Mapping[str, Any], spec: TaskSpec) -> PreparedTask:
    """The task of `task_as_document`.

    Args:
        document: The document.
        spec: The task's spec.

    Returns:
        An equal task.
    """
    return PreparedTask(
        name=document["name"],
        spec=spec,
        train=tuple(Example(*map(_tuples, values)) for values in document["train"]),
        validation=_items(document["validation"]),
        test=_items(document["test"]),
        labels=tuple(document["labels"]),
        facts=document["facts"],
    )


def _items(values: Sequence[Sequence[Any]]) -> tuple[Item, ...]:
    return tuple(_ITEMS[kind](*map(_tuples, fields)) for kind, *fields in values)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


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
        labels=tuple(spec.label_values) if isinstance(spec, ClassificationTask) else (),
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
    if not isinstance(spec, ClassificationTask):
        return facts
    labels = spec.label_values
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


def _one_label(spec: ClassificationTask, label: str, count: int) -> str:
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
    if spec.head == "linear":
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


def _tokens_sha256(task: PreparedTask) -> str:
    tokens = hashlib.sha256()
    for part in (task.train, task.validation, task.test):
        tokens.update(repr(part).encode())
    return tokens.hexdigest()


# --- what the model is given ----------------------------------------------------------------------


def scored_rows(item: Question | Window) -> tuple[Scored, ...]:
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
        Scored(item.prompt + inputs, tuple(pick for pick, _ in picks), item.head)
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
