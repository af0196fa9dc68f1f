"""From a row to token ids: rendered prompts, chat templates, and what is shortened to fit.

Prompt and continuation are tokenised together and cut where the prompt ends, so that the
continuation's tokens are those that the model would see in running text. Continuations that could
not be distinguished, or not from their prompt, are never passed on: what a task file can fix is
refused, and what lies in single rows of choices is corrected (`encode_question`).
"""

from __future__ import annotations

from typing import Any

from orchestrator.data.continuations import continuation_tokens, distinct_tails
from orchestrator.data.formats.placed_row import DataError, Row
from orchestrator.data.items import Question, Tokens, Window, Writing
from orchestrator.data.prompt_tokens import fitted_prompt
from orchestrator.data.prompts import column_value, continuation_texts, right_answer
from orchestrator.spec.task_kinds import ChoiceTask, GenerationTask

SHORTEST_PROMPT = 4
"""A generation prompt keeps at least one in this many of `training.max_length` tokens."""


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
    if task.has_head:
        _, prompt, whole = fitted_prompt(task, row, tokenizer, max_length)
        labels = range(len(texts))
        return Question(
            prompt, tuple((i,) for i in labels), tuple(1 for _ in labels), answer,
            head=task.name, shortened=not whole,
        )  # fmt: skip
    tails, joined = distinct_tails(task, row, tokenizer, texts)
    budget = max_length - max(len(tail) for tail in tails)
    if budget < 1:
        raise DataError(
            f"Task {task.name!r}: a continuation takes {max_length - budget} tokens, which leaves "
            f"none for a prompt in `training.max_length` {max_length}. Raise it."
        )
    shown, prompt, whole = fitted_prompt(task, row, tokenizer, budget + joined)
    if not whole:
        tails, joined = distinct_tails(task, shown, tokenizer, texts)
    return Question(
        prompt=prompt[: len(prompt) - joined][-budget:],
        continuations=tuple(tails),
        lengths=tuple(len(text.strip().encode()) for text in texts),
        answer=answer,
        shortened=not whole,
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
    target = (*continuation_tokens(task, row, tokenizer, texts)[0][0], *ending)
    longest = max_length - max(1, max_length // SHORTEST_PROMPT)
    shown, prompt, whole = fitted_prompt(
        task, row, tokenizer, max_length - min(len(target), longest)
    )
    if not whole:
        target = (*continuation_tokens(task, shown, tokenizer, texts)[0][0], *ending)
    reference = str(column_value(task, row, task.target_column)).strip()
    return Writing(
        prompt, target[:longest], reference, shortened=not whole or len(target) > longest
    )


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
