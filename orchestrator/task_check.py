"""What a task file makes of its data, before anything is trained on it.

Rows, splits and where they come from, rendered prompts with their right continuation, what a
constant guess would score, and whatever looks wrong.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.encoding import (
    PromptedTask,
    continuation_texts,
    encode_prompt,
    encode_question,
    encode_writing,
    refuse_unknown_ids,
    rendered_prompt,
    right_answer,
    row_text,
    words_that_begin_others,
)
from orchestrator.formatting import count, show
from orchestrator.row_values import answer_column, label_value, question_columns
from orchestrator.sources import PlacedRow, Row, read_split, split_names, where_is
from orchestrator.splits import Splits, split_rows, text_digest
from orchestrator.tasks import (
    ClassificationTask,
    GenerationTask,
    LanguageModellingTask,
    MultipleChoiceTask,
    TaskFileError,
    TaskSpec,
    load_task,
    task_files,
)

FEW_VALIDATION_ROWS = 50
"""With fewer, one answer moves the score by more than two points."""
IMBALANCED = 0.9
"""Share of the commonest label from which on a constant guess is hard to beat."""
ROWS_TOKENISED = 1000
"""Rows of a split whose tokens are counted, chosen by hash."""
ROWS_ENCODED = 100
"""Rows of a split that are encoded as for a sweep, with every continuation."""
ANY_LENGTH = 1 << 30
"""Tokens that no row has."""
LABELS_SHOWN = 12
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Sample:
    """One row as the model sees it."""

    split: str
    prompt: str
    continuation: str
    """The right one; empty for running text."""
    others: tuple[str, ...] = ()
    """The row's other choices."""


@dataclass(frozen=True)
class Lengths:
    """How long prompt and right continuation are together, over the rows looked at."""

    rows: int
    median: float
    longest: int
    over_limit: int | None = None
    """Rows longer than the limit; None where there is no limit."""


@dataclass(frozen=True)
class SplitFacts:
    """One split of the task."""

    rows: int
    origin: str
    duplicates: int
    """Rows whose prompt stands in an earlier row of the split as well."""
    labels: dict[str, int] = field(default_factory=dict)
    """Rows of each label word or, for multiple choice, of each position of the right choice."""
    characters: Lengths | None = None
    tokens: Lengths | None = None


@dataclass(frozen=True)
class TaskCheck:
    """Everything that `orchestrate tasks check` says."""

    name: str
    kind: str
    head: str | None
    """How a classification task is answered; None for other kinds."""
    description: str
    place: str
    splits: dict[str, SplitFacts]
    samples: tuple[Sample, ...]
    overlaps_removed: int
    left_out: int
    incomplete: int
    majority: float | None
    """What the commonest label of train scores on validation."""
    chance: float | None
    max_length: int | None
    words: dict[str, list[str]]
    """Label word to the values in the data that it stands for."""
    warnings: tuple[str, ...]


# --- computing -----------------------------------------------------------------------------------


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
    rows = {name: list(getattr(splits, name)) for name in _SPLITS}
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
    if isinstance(task, ClassificationTask) and reference.labels:
        commonest = max(reference.labels, key=lambda word: reference.labels[word])
        majority = scored.labels[commonest] / scored.rows
    return TaskCheck(
        name=task.name,
        kind=task.kind,
        head=task.head if isinstance(task, ClassificationTask) else None,
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
        words=_values_of_words(task),
        warnings=tuple(_warnings(task, splits, facts, tokenizer, max_length)),
    )


def _place(task: TaskSpec) -> str:
    if task.data.files is not None:
        return task.data.files
    parts = [str(task.data.hub), task.data.config, task.data.revision]
    return " ".join(part for part in parts if part)


def _values_of_words(task: TaskSpec) -> dict[str, list[str]]:
    if not isinstance(task, ClassificationTask):
        return {}
    return {
        word: [value for value, found in task.labels.items() if found == word]
        for word in task.words
    }


def _right(task: ClassificationTask | MultipleChoiceTask, row: Row) -> tuple[list[str], int]:
    texts = continuation_texts(task, row)
    return texts, right_answer(task, row, len(texts))


def _labels(task: TaskSpec, rows: Sequence[Row]) -> dict[str, int]:
    if isinstance(task, ClassificationTask):
        values = (label_value(task, row[task.label_column]) for row in rows)
        counts = Counter(task.labels[value] for value in values)
        return {word: counts[word] for word in task.words}
    if isinstance(task, MultipleChoiceTask):
        positions = Counter(_right(task, row)[1] for row in rows)
        return {f"choice {position + 1}": n for position, n in sorted(positions.items())}
    return {}


def _chance(task: TaskSpec, rows: Sequence[Row]) -> float | None:
    if isinstance(task, ClassificationTask):
        return 1 / len(task.words)
    if isinstance(task, MultipleChoiceTask):
        return statistics.fmean(1 / len(_right(task, row)[0]) for row in rows)
    return None


def _answer_text(task: PromptedTask, row: Row) -> str:
    if isinstance(task, GenerationTask):
        return continuation_texts(task, row)[0]
    texts, answer = _right(task, row)
    return texts[answer]


def _characters(task: TaskSpec, rows: Sequence[Row]) -> Lengths | None:
    if not rows:
        return None
    lengths = [
        len(row_text(task, row))
        + (0 if isinstance(task, LanguageModellingTask) else len(_answer_text(task, row)))
        for row in rows
    ]
    return Lengths(len(rows), statistics.median(lengths), max(lengths))


def _first_by_hash(task: TaskSpec, rows: Sequence[Row], limit: int) -> list[Row]:
    return sorted(rows, key=lambda row: text_digest(row_text(task, row), "check"))[:limit]


def _tokens(
    task: TaskSpec,
    rows: Sequence[Row],
    tokenizer: Any,
    max_length: int | None,
    vocabulary: int | None,
) -> Lengths | None:
    if not rows or tokenizer is None:
        return None
    chosen = _first_by_hash(task, rows, ROWS_TOKENISED)
    if isinstance(task, LanguageModellingTask):
        texts, special = [row_text(task, row) for row in chosen], False
    else:
        texts = [
            rendered_prompt(task, row, tokenizer)
            + max(continuation_texts(task, row), key=len) * (_head(task) is None)
            for row in chosen
        ]
        special = task.template == "raw"  # a chat template writes the special tokens itself
    tokens = tokenizer(texts, add_special_tokens=special)["input_ids"]
    refuse_unknown_ids(task.name, itertools.chain(*tokens), tokenizer, vocabulary)
    lengths = [len(ids) for ids in tokens]
    windows = isinstance(task, LanguageModellingTask)  # text is cut into windows, nothing is lost
    over = None if windows or max_length is None else sum(n > max_length for n in lengths)
    return Lengths(len(chosen), statistics.median(lengths), max(lengths), over)


def _head(task: TaskSpec) -> str | None:
    return "linear" if isinstance(task, ClassificationTask) and task.head == "linear" else None


def _samples(
    task: TaskSpec, rows: Mapping[str, Sequence[Row]], tokenizer: Any, wanted: int
) -> tuple[Sample, ...]:
    """Rows of train, of different labels where there are such, else of validation."""
    split = "train" if rows["train"] else "validation"
    different = {row_text(task, row): row for row in rows[split]}
    candidates = _first_by_hash(task, list(different.values()), 200)
    if isinstance(task, LanguageModellingTask):
        texts = [row_text(task, row) for row in candidates]
        return tuple(Sample(split, text, "") for text in texts if text.strip())[:wanted]
    shown: list[Sample] = []
    for row in candidates:
        others = () if isinstance(task, GenerationTask) else _right(task, row)[0]
        answer = _answer_text(task, row)
        prompt = (
            row_text(task, row)
            if tokenizer is None and task.template == "chat"
            else rendered_prompt(task, row, tokenizer)
        )
        rest = tuple(text for text in others if text != answer)
        kept = rest if isinstance(task, MultipleChoiceTask) else ()
        shown.append(Sample(split, prompt, answer, kept))
    # One of each label first; the order among equals stays that of the hash.
    met: Counter[str] = Counter()
    ranked: list[tuple[int, int, Sample]] = []
    for number, sample in enumerate(shown):
        ranked.append((met[sample.continuation], number, sample))
        met[sample.continuation] += 1
    return tuple(sample for _, _, sample in sorted(ranked, key=lambda entry: entry[:2])[:wanted])


# --- what looks wrong ----------------------------------------------------------------------------


def _warnings(
    task: TaskSpec,
    splits: Splits,
    facts: Mapping[str, SplitFacts],
    tokenizer: Any,
    max_length: int | None,
) -> Iterable[str]:
    yield from _about_splits(task, splits, facts)
    if isinstance(task, LanguageModellingTask):
        return
    yield from _about_prompt(task, splits)
    if isinstance(task, ClassificationTask):
        yield from _about_labels(facts)
        if task.head == "label_words":
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
    columns = [*question_columns(task), *filter(None, [answer_column(task)])]
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
    elif task.template == "raw" and not task.prompt.endswith("\n") and _head(task) is None:
        rows = [*splits.train[:1], *splits.validation[:1]]
        glued = [text for text in continuation_texts(task, rows[0]) if not text[:1].isspace()]
        if glued:
            yield (
                f"{glued[0][:40]!r} begins without a space, so the model reads it joined to the "
                f"prompt's end {task.prompt[-12:]!r}"
            )
    if isinstance(task, MultipleChoiceTask):
        return  # the same question may be asked with other choices
    by_prompt: dict[str, set[str]] = {}
    for row in splits.train:
        by_prompt.setdefault(row_text(task, row), set()).add(_answer_text(task, row))
    disagreeing = sum(len(answers) > 1 for answers in by_prompt.values())
    if disagreeing:
        yield f"{count(disagreeing, 'prompt')} of train stand there with different answers"


def _about_labels(facts: Mapping[str, SplitFacts]) -> Iterable[str]:
    for name in _SPLITS:
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
        row for name in _SPLITS for row in _first_by_hash(task, getattr(splits, name), ROWS_ENCODED)
    ]
    if isinstance(task, GenerationTask):
        for row in rows:
            encode_writing(task, row, tokenizer, ANY_LENGTH)
        return
    questions = [encode_question(task, row, tokenizer, ANY_LENGTH) for row in rows]
    if not isinstance(task, MultipleChoiceTask):
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


def _about_words(task: ClassificationTask, tokenizer: Any) -> Iterable[str]:
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
    rows = _first_by_hash(task, splits.validation, ROWS_TOKENISED)
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


# --- a list of tasks -----------------------------------------------------------------------------


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


# --- showing -------------------------------------------------------------------------------------


def render_list(tasks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Tasks for people: name, kind and description.

    Args:
        tasks: Records of `list_tasks`.

    Returns:
        A table.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for task in tasks:
        kind = str(task["kind"]).replace("_", " ")
        table.add_row(Text(task["name"]), Text(kind), Text(task["description"]))
    return table


def render(check: TaskCheck) -> RenderableType:
    """The facts for people.

    Args:
        check: What was found.

    Returns:
        Tables, rendered prompts and warnings.
    """
    head = ", by a linear head" if check.head == "linear" else ""
    title = Text.assemble((check.name, "bold"), f"  {check.kind.replace('_', ' ')}{head}")
    parts: list[RenderableType] = [title]
    parts += [Text(" ".join(check.description.split()))] if check.description else []
    parts += [Text(check.place, style="dim", overflow="fold"), Text(), _split_table(check)]
    parts += [Text(line) for line in _counts(check)]
    if any(part.labels for part in check.splits.values()):
        parts += [Text(), _label_table(check)]
    parts += [Text(), _scores(check)] if check.chance is not None else []
    for number, sample in enumerate(check.samples, start=1):
        parts += [Text(), *_sample(number, sample)]
    parts.append(Text())
    if not check.warnings:
        parts.append(Text("Nothing looks wrong.", style="green"))
    for warning in check.warnings:
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(Text("WARN", style="yellow"), Text(warning))
        parts.append(row)
    return Group(*parts)


def _split_table(check: TaskCheck) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("split", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("repeated", justify="right", no_wrap=True)
    measured = check.max_length is not None
    unit = "tokens" if any(part.tokens for part in check.splits.values()) else "characters"
    table.add_column(f"{unit}: median, most", justify="right", no_wrap=True)
    if measured:
        table.add_column(f"over {check.max_length}", justify="right", no_wrap=True)
    table.add_column("where from", overflow="fold")
    for name, part in check.splits.items():
        lengths = part.tokens or part.characters
        shown = f"{lengths.median:,.0f}, {lengths.longest:,}" if lengths else "-"
        over = "-"
        if lengths and lengths.over_limit is not None:
            over = f"{lengths.over_limit / lengths.rows:.0%}"
        cells = [name, f"{part.rows:,}", f"{part.duplicates:,}", shown]
        table.add_row(*cells, *([over] if measured else []), Text(part.origin))
    return table


def _counts(check: TaskCheck) -> Iterable[str]:
    if check.left_out:
        yield f"{count(check.left_out, 'row')} left out, as their label stands for null."
    looked_at = [part.tokens for part in check.splits.values() if part.tokens]
    if any(lengths.rows == ROWS_TOKENISED for lengths in looked_at):
        yield f"Tokens are of at most {ROWS_TOKENISED:,} rows a split."


def _label_table(check: TaskCheck) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("right choice" if not check.words else "label word", overflow="fold")
    if check.words:
        table.add_column("in the data", overflow="fold")
    for name in _SPLITS:
        table.add_column(name, justify="right", no_wrap=True)
    labels = list(dict.fromkeys(word for part in check.splits.values() for word in part.labels))
    if not check.words:
        labels.sort(key=lambda label: int(label.split()[-1]))
    for label in labels[:LABELS_SHOWN]:
        counts = [f"{check.splits[name].labels.get(label, 0):,}" for name in _SPLITS]
        values = [Text(", ".join(check.words[label]))] if check.words else []
        table.add_row(Text(repr(label) if check.words else label), *values, *counts)
    if len(labels) <= LABELS_SHOWN:
        return table
    more = len(labels) - LABELS_SHOWN
    return Group(table, Text(f"and {more} more labels; --json has them all", style="dim"))


def _scores(check: TaskCheck) -> Text:
    text = Text(f"Guessing scores {show(check.chance)} on validation")
    if check.majority is not None:
        text.append(f", always saying the commonest label of train {show(check.majority)}")
    return text.append(".")


_ENDS = str.maketrans({" ": "\u2423", "\t": "\u21e5"})


def visible(text: str) -> str:
    """Text with its line ends marked, and with the spaces that stand before them.

    Args:
        text: Any text.

    Returns:
        The text with a return sign before each newline and an open box for each space at the end
        of a line.
    """
    lines = [
        line[: len(line.rstrip(" \t"))] + line[len(line.rstrip(" \t")) :].translate(_ENDS)
        for line in text.split("\n")
    ]
    return "\u21b5\n".join(lines)


def _shortened(text: str, most: int = 700) -> str:
    if len(text) <= most:
        return text
    left_out = len(text) - most
    half = most // 2
    return f"{text[:half]} [... {left_out:,} characters ...] {text[-half:]}"


def _sample(number: int, sample: Sample) -> Iterable[RenderableType]:
    yield Text(f"Example {number}, {sample.split}", style="bold")
    text = Text(visible(_shortened(sample.prompt)), overflow="fold")
    if sample.continuation:
        text.append("\u27e6", style="dim")
        text.append(visible(_shortened(sample.continuation)), style="bold green")
        text.append("\u27e7", style="dim")
    yield Padding(text, (0, 0, 0, 2), expand=False)
    for other in sample.others[:5]:
        wrong = Text.assemble("not \u27e6", visible(_shortened(other, 200)), "\u27e7", style="dim")
        yield Padding(wrong, (0, 0, 0, 4), expand=False)


def as_document(check: TaskCheck) -> dict[str, Any]:
    """The facts for programs.

    Args:
        check: What was found.

    Returns:
        A JSON document.
    """
    return asdict(check)
