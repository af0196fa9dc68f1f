"""The text of a row: its rendered prompt, what may follow it, and which answer is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from orchestrator.data.formats.placed_row import DataError, Row, where_is
from orchestrator.spec.task_kinds import (
    ChoiceTask,
    LanguageModellingTask,
    PromptedTask,
    TaskSpec,
)
from orchestrator.system.wording import suggestion


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
        return str(column_value(task, row, task.text_column))
    assert isinstance(task, PromptedTask), task.kind
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
    texts = _asked(task, row, lambda: task.continuations(row))
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
    return _asked(task, row, lambda: task.right(row, count))


Answer = TypeVar("Answer")


def _asked(task: TaskSpec, row: Row, ask: Callable[[], Answer]) -> Answer:
    """What a task says of a row; what it refuses is told with the row's place."""
    try:
        return ask()
    except KeyError as error:
        column_value(task, row, str(error.args[0]))
        raise
    except ValueError as error:
        raise DataError(f"{where_is(row)}: {error}") from None


def column_value(task: TaskSpec, row: Row, name: str) -> Any:
    """The value of a row's column; a row without it is refused."""
    if name not in row:
        raise DataError(
            f"{where_is(row)}: has no column {name!r}, which task {task.name!r} needs."
            f"{suggestion(name, [str(k) for k in row])} Its columns: {sorted(row)}."
        )
    return row[name]
