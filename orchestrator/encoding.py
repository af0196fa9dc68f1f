"""From a row to token ids: rendered prompts, chat templates, and what is shortened to fit.

Prompt and continuation are tokenised together and cut where the prompt ends, so that the
continuation's tokens are those that the model would see in running text. Continuations that could
not be told apart, or not told from their prompt, are never passed on: what a task file can mend is
refused, and what lies in single rows of choices is put right (`encode_question`).
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.row_values import label_value
from orchestrator.sources import DataError, Row, where_is
from orchestrator.strict_json import cut
from orchestrator.tasks import (
    ClassificationTask,
    GenerationTask,
    LanguageModellingTask,
    MultipleChoiceTask,
    TaskSpec,
    suggestion,
)

Tokens: TypeAlias = tuple[int, ...]
PromptedTask: TypeAlias = ClassificationTask | MultipleChoiceTask | GenerationTask
ChoiceTask: TypeAlias = ClassificationTask | MultipleChoiceTask

SHORTEST_PROMPT = 4
"""A generation prompt keeps at least one in this many of `training.max_length` tokens."""


@dataclass(frozen=True)
class Example:
    """One training sequence: the tokens from `scored_from` on are what is learnt."""

    tokens: Tokens
    """With a head, the last of them is not a token but the index of the right label."""
    scored_from: int
    """Index of the first scored token, at least 1 (nothing predicts the first token)."""
    head: str | None = None
    """The task whose linear head is trained; None: the model's own output layer."""
    label: int | None = None
    """Index of the right label or choice, where there is one."""


@dataclass(frozen=True)
class Question:
    """One prompt with its alternatives; classification and multiple choice alike."""

    prompt: Tokens
    continuations: tuple[Tokens, ...]
    """With a head, `(0,)`, `(1,)` and so on: the indices of its labels."""
    lengths: tuple[int, ...]
    """Length of each continuation in UTF-8 bytes (leading space excluded); 1 with a head."""
    answer: int
    """Index of the right continuation, counted from 0."""
    head: str | None = None
    """The task whose linear head answers; None: the model's own output layer."""
    shortened: bool = False
    """Whether the prompt did not fit."""

    @property
    def is_answerable(self) -> bool:
        """Whether no other continuation reads like the right one."""
        return self.continuations.count(self.continuations[self.answer]) == 1


@dataclass(frozen=True)
class Window:
    """A stretch of running text."""

    tokens: Tokens
    scored_from: int
    num_bytes: int
    """UTF-8 bytes of the scored text."""


@dataclass(frozen=True)
class Writing:
    """A prompt after which the model writes, and what it should have written."""

    prompt: Tokens
    target: Tokens
    """The reference as the model learns it, the end of the text included."""
    reference: str
    shortened: bool = False
    """Whether the prompt or, in training, the reference did not fit."""


Item: TypeAlias = Question | Window | Writing


# --- rendering -----------------------------------------------------------------------------------


def row_text(task: TaskSpec, row: Row) -> str:
    """What a row asks, as text: the prompt with its columns filled in, or the text itself.

    Args:
        task: The task.
        row: One row with canonical column names.

    Returns:
        The text, without a chat template.

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
            f"{where_is(row)}: the prompt of task {task.name!r} names {name!r}, which is not there."
            f"{suggestion(name, [str(k) for k in row])} Its columns: {sorted(row)}."
        ) from None


def rendered_prompt(task: PromptedTask, row: Row, tokenizer: Any) -> str:
    """The whole text that the model reads before it answers, chat template included.

    Args:
        task: The task.
        row: One row with canonical column names.
        tokenizer: A Hugging Face tokenizer; looked at for `template: chat` only.

    Returns:
        The text.

    Raises:
        DataError: If a column is missing, or the tokenizer has no chat template, or one that will
            not have the messages.
    """
    text = row_text(task, row)
    if task.template == "raw":
        return text
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"Task {task.name!r} wants a chat template (`template: chat`), and the model's "
            "tokenizer has none. Use an instruction-tuned model, or `template: raw`."
        )
    messages = [{"role": "user", "content": text}]
    if task.system is None:
        return _chat(task, messages, tokenizer)
    rendered = _chat(task, [{"role": "system", "content": task.system}, *messages], tokenizer)
    if task.system.strip() not in rendered and rendered == _chat(task, messages, tokenizer):
        raise DataError(_REFUSED.format(name=task.name, how="leaves it out without a word"))
    return rendered


_REFUSED = (
    "Task {name!r}: it has a `system` message, and the chat template of the model's tokenizer "
    "{how}. Take `system` out of the task file and write it into the prompt, or use a model whose "
    "template has one."
)


def _chat(task: PromptedTask, messages: list[dict[str, str]], tokenizer: Any) -> str:
    """The messages in the tokenizer's chat template, which is a program of its author."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    except (TemplateError, ValueError, TypeError, KeyError, IndexError, ArithmeticError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if messages[0]["role"] == "system":
            _chat(task, messages[1:], tokenizer)  # if it fails too, the system message is not why
            how = f"refuses it ({said})"
            raise DataError(_REFUSED.format(name=task.name, how=how)) from None
        raise DataError(
            f"Task {task.name!r}: the chat template of the model's tokenizer fails on a prompt "
            f"({said}). Use a model with another template, or `template: raw`."
        ) from None


def continuation_texts(task: PromptedTask, row: Row) -> list[str]:
    """What may follow a row's prompt: every label word or choice, or the one reference.

    Args:
        task: The task.
        row: One row with canonical column names.

    Returns:
        The texts; without their leading space after a chat template, which ends a line.

    Raises:
        DataError: If the row has no list of choices, or no reference.
    """
    if isinstance(task, ClassificationTask):
        texts = task.words
    elif isinstance(task, MultipleChoiceTask):
        choices = _column(task, row, task.choices_column)
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise DataError(
                f"{where_is(row)}: `{task.choices_column}` of task {task.name!r} must hold at "
                f"least two choices, got {cut(repr(choices))}."
            )
        texts = [task.continuation.format(choice=choice) for choice in choices]
    else:
        texts = [task.target.format(target=_column(task, row, task.target_column))]
    return [text.lstrip() for text in texts] if task.template == "chat" else texts


def right_answer(task: ChoiceTask, row: Row, count: int) -> int:
    """The index of a row's right label or choice.

    Args:
        task: The task.
        row: One row with canonical column names.
        count: How many alternatives there are.

    Returns:
        The index, counted from 0.

    Raises:
        DataError: If the row's answer is not among the alternatives.
    """
    if isinstance(task, ClassificationTask):
        value = label_value(task, _column(task, row, task.label_column))
        known = list(task.labels)
        if value not in task.labels:
            raise DataError(
                f"{where_is(row)}: the label {cut(value)!r} is not among the `labels` {known} of "
                f"task {task.name!r}.{suggestion(value, known)}"
            )
        word = task.labels[value]
        if word is None:
            raise DataError(f"Task {task.name!r}: rows labelled {value!r} are left out.")
        return task.words.index(word)
    value = _column(task, row, task.answer_column)
    names = row.get("answer_labels")
    if isinstance(names, list | tuple) and value in names:
        index: int | None = list(names).index(value)
    else:
        index = _whole(value)
    if index is None or not 0 <= index < count:
        labels = f" and none of the `answer_labels` {names!r}" if names is not None else ""
        raise DataError(
            f"{where_is(row)}: the answer {cut(repr(value))} is no index into the {count} choices "
            f"of task {task.name!r}, counted from 0{labels}."
        )
    return index


def _whole(value: object) -> int | None:
    """A whole number that stands there as such, as text or as 1.0; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _column(task: TaskSpec, row: Row, name: str) -> Any:
    if name not in row:
        raise DataError(
            f"{where_is(row)}: has no column {name!r}, which task {task.name!r} needs."
            f"{suggestion(name, [str(k) for k in row])} Its columns: {sorted(row)}."
        )
    return row[name]


# --- tokens --------------------------------------------------------------------------------------


def encode_question(task: ChoiceTask, row: Row, tokenizer: Any, max_length: int) -> Question:
    """A row of a classification or multiple-choice task as token ids.

    No continuation of the result begins another: of two such, the shorter would be the likelier
    whatever the model knows. Label words like that are refused. In a row of choices like that each
    choice is closed by the end of the text, which then is learnt and scored with it. Where the
    tokenizer joins the end of the prompt to a choice, the choices begin with what is joined.

    Args:
        task: The task.
        row: One row with canonical column names.
        tokenizer: A Hugging Face tokenizer.
        max_length: Tokens of prompt and longest continuation together.

    Returns:
        The question; see `fitted_prompt` for prompts that do not fit. Equal choices stay equal:
        see `Question.is_answerable`.

    Raises:
        DataError: If the row's answer is not among its alternatives, if these do not fit, or if
            label words begin one another or are joined to the prompt.
    """
    texts = continuation_texts(task, row)
    answer = right_answer(task, row, len(texts))
    if isinstance(task, ClassificationTask) and task.head == "linear":
        _, prompt, whole = fitted_prompt(task, row, tokenizer, max_length)
        labels = range(len(texts))
        return Question(
            prompt, tuple((i,) for i in labels), tuple(1 for _ in labels), answer,
            head=task.name, shortened=not whole,
        )  # fmt: skip
    tails, joined = _told_apart(task, row, tokenizer, texts)
    room = max_length - max(len(tail) for tail in tails)
    if room < 1:
        raise DataError(
            f"Task {task.name!r}: a continuation takes {max_length - room} tokens, which leaves no "
            f"room for a prompt in `training.max_length` {max_length}. Raise it."
        )
    shown, prompt, whole = fitted_prompt(task, row, tokenizer, room + joined)
    if not whole:
        tails, joined = _told_apart(task, shown, tokenizer, texts)
    return Question(
        prompt=prompt[: len(prompt) - joined][-room:],
        continuations=tuple(tails),
        lengths=tuple(len(text.strip().encode()) for text in texts),
        answer=answer,
        shortened=not whole,
    )


def _told_apart(
    task: ChoiceTask, row: Row, tokenizer: Any, texts: Sequence[str]
) -> tuple[list[Tokens], int]:
    """The tokens of each text, none the beginning of another; see `_tails`."""
    tails, joined = _tails(task, row, tokenizer, texts)
    if is_estimate(tokenizer):
        return tails, joined
    if isinstance(task, ClassificationTask):
        begun = _begins_another(tails)
        if begun is not None:
            raise DataError(_not_told_apart(task, texts, tails, begun))
        return tails, joined
    # Choices that are equal are one choice here: what becomes of such a row is decided elsewhere.
    different = list(dict.fromkeys(tails))
    begun = _begins_another(different)
    if begun is None:
        return tails, joined
    end = tokenizer.eos_token_id
    if end is None:
        shorter, longer = (texts[tails.index(different[index])] for index in begun)
        raise DataError(
            f"Task {task.name!r}: the choice {shorter!r} of a row is how {longer!r} begins, so an "
            "end of the text must be scored with them, and the model's tokenizer has none "
            "(`eos_token`). Give it one, or leave such rows out."
        )
    return [(*tail, int(end)) for tail in tails], joined


def _begins_another(tails: Sequence[Tokens]) -> tuple[int, int] | None:
    """Indices of a text and of one that begins with it (or equals it); None where there is none."""
    # In order, whatever begins with a text follows it at once.
    order = sorted(range(len(tails)), key=lambda index: tails[index])
    for one, next_one in itertools.pairwise(order):
        if tails[next_one][: len(tails[one])] == tails[one]:
            return one, next_one
    return None


def _not_told_apart(
    task: ClassificationTask, texts: Sequence[str], tails: Sequence[Tokens], begun: tuple[int, int]
) -> str:
    shorter, longer = (texts[index] for index in begun)
    how = (
        f"the label words {shorter!r} and {longer!r} are the same tokens to this tokenizer, so the "
        "second could never be the answer"
        if tails[begun[0]] == tails[begun[1]]
        else f"the label word {shorter!r} is how {longer!r} begins, so the longer one can never be "
        "likelier and could never be the answer"
    )
    return (
        f"Task {task.name!r}: {how}. Change `labels` so that no label word begins another, or let "
        "a linear head answer (`head: linear`)."
    )


def words_that_begin_others(task: ClassificationTask) -> list[tuple[str, str]]:
    """Pairs of label words of which the first is how the second begins, as letters.

    Args:
        task: The task.

    Returns:
        The pairs. Whether they begin alike as tokens, which is what counts, a tokenizer says.
    """
    order = sorted(task.words)
    return [(one, other) for one, other in itertools.pairwise(order) if other.startswith(one)]


def refuse_unknown_ids(
    name: str, ids: Iterable[int], tokenizer: Any, vocabulary: int | None
) -> None:
    """Refuse token ids for which a base has no embedding.

    Args:
        name: The task's name.
        ids: Token ids.
        tokenizer: The tokenizer that gave them.
        vocabulary: Rows of the base's embedding; None where they are not known.

    Raises:
        DataError: If an id is not below `vocabulary`.
    """
    if vocabulary is None or is_estimate(tokenizer):
        return
    largest = max(ids, default=0)
    if largest < vocabulary:
        return
    raise DataError(
        f"Task {name!r}: the tokenizer writes {tokenizer.decode([largest])!r} as token {largest}, "
        f"and the base model's embedding has {vocabulary} rows, 0 to {vocabulary - 1}. Tokens were "
        "added to the tokenizer and not to the model: use the tokenizer that belongs to this base, "
        f"or save the base again after `model.resize_token_embeddings({largest + 1})` or more."
    )


def token_ids(item: Item | Example) -> Iterator[int]:
    """Every token id that a model is given for an item, or asked for."""
    match item:
        case Question():
            yield from item.prompt
            if item.head is None:
                yield from itertools.chain(*item.continuations)
        case Writing():
            yield from item.prompt
            yield from item.target
        case Example():
            yield from item.tokens[: -1 if item.head is not None else None]
        case Window():
            yield from item.tokens


def is_estimate(tokenizer: Any) -> bool:
    """Whether a tokenizer only stands in for the model's, so that its tokens say nothing exact."""
    return bool(getattr(tokenizer, "is_estimate", False))


def _tails(
    task: PromptedTask, row: Row, tokenizer: Any, texts: Sequence[str]
) -> tuple[list[Tokens], int]:
    """The tokens that each text adds to a row's prompt.

    Args:
        task: The task.
        row: The row.
        tokenizer: A Hugging Face tokenizer.
        texts: What may follow the prompt.

    Returns:
        The tokens of each, and how many tokens at the prompt's end they begin with because the
        tokenizer writes the two together otherwise than the prompt alone (mostly 0).

    Raises:
        DataError: If a text adds nothing, or is joined to a prompt where the task file, or nothing,
            can put that right.
    """
    text = rendered_prompt(task, row, tokenizer)
    prompt = _encode(task, tokenizer, text)
    wholes = [_encode(task, tokenizer, text + tail) for tail in texts]
    for whole, words in zip(wholes, texts, strict=True):
        if whole == prompt[: len(whole)]:
            raise DataError(
                f"Task {task.name!r}: the continuation {words!r} adds no token to its prompt. "
                "Give it at least one word of its own."
            )
    shared = [_shared(prompt, whole) for whole in wholes]
    kept = min(shared)
    if kept < len(prompt) and not is_estimate(tokenizer):
        joined = [t for t, length in zip(texts, shared, strict=True) if length < len(prompt)]
        if kept == 0 or not _may_be_joined(task):
            raise DataError(_joined(task, text, joined))
    return [whole[kept:] for whole in wholes], len(prompt) - kept


def _shared(one: Tokens, other: Tokens) -> int:
    """How many tokens two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _may_be_joined(task: PromptedTask) -> bool:
    """Whether what follows a prompt may begin with the prompt's last tokens."""
    # What the task file can mend is to be mended there: whoever asks an exported model sends the
    # prompt as text, and the model would never have seen a text that goes on from those tokens.
    if isinstance(task, GenerationTask):
        return False  # the prompt alone must be how the learnt text begins
    if task.template == "chat":
        return True
    return isinstance(task, MultipleChoiceTask) and not task.prompt.endswith((" ", "\t"))


def _joined(task: PromptedTask, text: str, joined: Sequence[str]) -> str:
    shown = " and ".join(repr(words[:40]) for words in joined[:2])
    cure = (
        "End `prompt` without a space and begin what follows it with one"
        if text[-1:].isspace()
        else "End `prompt` in a fixed word or mark, such as 'Answer:', and begin what follows it "
        "with a space"
    )
    if task.template == "chat":
        cure = "Use `template: raw`, with a prompt that ends in a fixed word or mark"
    return (
        f"Task {task.name!r}: the tokenizer joins the end of the prompt, {text[-12:]!r}, to the "
        f"beginning of {shown}, so the prompt's tokens are not those that the answer follows in "
        f"running text. {cure}."
    )


def encode_writing(task: GenerationTask, row: Row, tokenizer: Any, max_length: int) -> Writing:
    """A row of a generation task as token ids.

    Args:
        task: The task.
        row: One row with canonical column names.
        tokenizer: A Hugging Face tokenizer.
        max_length: Tokens of prompt and reference together. A reference that would leave the
            prompt less than a quarter of them loses its end.

    Returns:
        The prompt and its reference.

    Raises:
        DataError: If the row has no reference, or the tokenizer joins it to the prompt.
    """
    texts = continuation_texts(task, row)
    ending = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    target = (*_tails(task, row, tokenizer, texts)[0][0], *ending)
    longest = max_length - max(1, max_length // SHORTEST_PROMPT)
    shown, prompt, whole = fitted_prompt(
        task, row, tokenizer, max_length - min(len(target), longest)
    )
    if not whole:
        target = (*_tails(task, shown, tokenizer, texts)[0][0], *ending)
    reference = str(_column(task, row, task.target_column)).strip()
    return Writing(
        prompt, target[:longest], reference, shortened=not whole or len(target) > longest
    )


def encode_prompt(task: PromptedTask, row: Row, tokenizer: Any, max_length: int) -> Tokens:
    """A row's prompt alone, to be answered; no label or reference is needed."""
    return fitted_prompt(task, row, tokenizer, max_length)[1]


def fitted_prompt(
    task: PromptedTask, row: Row, tokenizer: Any, room: int
) -> tuple[Row, Tokens, bool]:
    """A row's prompt in at most `room` tokens.

    The longest columns lose their ends until the prompt fits: instructions, the chat template and
    the shorter text of a pair stay whole. Only where that cannot help does the prompt lose its
    beginning (its opening token stays).

    Args:
        task: The task.
        row: One row with canonical column names.
        tokenizer: A Hugging Face tokenizer.
        room: Tokens at most, at least 1.

    Returns:
        The row as it was shown, the prompt's tokens, and whether nothing was lost.
    """
    shown: Row = row
    tokens = _encode(task, tokenizer, rendered_prompt(task, shown, tokenizer))
    if len(tokens) <= room:
        return shown, tokens, True
    # Cutting text and tokenising it again can change the count by a few, hence several rounds.
    for _ in range(4):
        shorter = _shortened(task, shown, tokenizer, len(tokens) - room)
        if shorter is None:
            break
        shown = shorter
        tokens = _encode(task, tokenizer, rendered_prompt(task, shown, tokenizer))
        if len(tokens) <= room:
            return shown, tokens, False
    begins_with_bos = room > 1 and tokens[0] == tokenizer.bos_token_id
    kept = (tokens[0], *tokens[len(tokens) - room + 1 :]) if begins_with_bos else tokens[-room:]
    return shown, kept, False


def _shortened(task: PromptedTask, row: Row, tokenizer: Any, excess: int) -> Row | None:
    """The row with `excess` tokens taken off the ends of the longest columns of its prompt."""
    texts = {
        name: list(tokenizer(str(row[name]), add_special_tokens=False)["input_ids"])
        for name in dict.fromkeys(prompt_columns(task.prompt))  # in order, the same in each process
        if isinstance(row.get(name), str)
    }
    kept = {name: len(tokens) for name, tokens in texts.items()}
    for _ in range(excess):
        longest = max(kept, key=lambda name: kept[name], default=None)
        if longest is None or kept[longest] <= 1:
            break
        kept[longest] -= 1
    cut: dict[str, str] = {
        name: str(tokenizer.decode(tokens[: kept[name]]))
        for name, tokens in texts.items()
        if kept[name] < len(tokens)
    }
    return {**row, **cut} if cut else None


def prompt_columns(template: str) -> list[str]:
    """The columns that a prompt names, in order."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _encode(task: PromptedTask, tokenizer: Any, text: str) -> Tokens:
    # A chat template writes the special tokens itself.
    special = task.template == "raw"
    tokens = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    if special and tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()  # some tokenizers close every text; ours goes on
    if not tokens:
        raise DataError(f"The text {text!r} has no tokens, so nothing can follow it.")
    return tuple(tokens)


def example_of(item: Question | Writing) -> Example:
    """The training sequence of a question (its right continuation) or of a writing."""
    if isinstance(item, Writing):
        return Example(item.prompt + item.target, len(item.prompt))
    right = item.continuations[item.answer]
    return Example(item.prompt + right, len(item.prompt), item.head, item.answer)


def with_any_answer(task: ChoiceTask, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with some valid answer: a question that is only asked has none of its own."""
    if isinstance(task, ClassificationTask):
        return {**row, task.label_column: task.label_values[0]}
    return {**row, task.answer_column: 0, "answer_labels": None}


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
