"""Continuations as token ids, distinct from one another and from the prompt they follow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from orchestrator.data.formats.placed_row import DataError, Row
from orchestrator.data.items import Tokens
from orchestrator.data.prompt_tokens import encode_text, is_estimate
from orchestrator.data.prompts import rendered_prompt
from orchestrator.spec.task_kinds import ChoiceTask, GenerationTask, PromptedTask, TaskBase


def distinct_tails(
    task: ChoiceTask, row: Row, tokenizer: Any, texts: Sequence[str]
) -> tuple[list[Tokens], int]:
    """The tokens of each text, none the beginning of another; see `_tails`."""
    tails, joined = continuation_tokens(task, row, tokenizer, texts)
    if is_estimate(tokenizer):
        return tails, joined
    if task.words:
        begun = _begins_another(tails)
        if begun is not None:
            raise DataError(_not_distinct(task, texts, tails, begun))
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


def _not_distinct(
    task: ChoiceTask, texts: Sequence[str], tails: Sequence[Tokens], begun: tuple[int, int]
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


def words_that_begin_others(task: TaskBase) -> list[tuple[str, str]]:
    """Pairs of label words of which the first is how the second begins, as letters.

    Args:
        task: The task.

    Returns:
        The pairs. Whether they begin alike as tokens, which is what counts, a tokenizer says.
    """
    order = sorted(task.words)
    return [(one, other) for one, other in itertools.pairwise(order) if other.startswith(one)]


def continuation_tokens(
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
    prompt = encode_text(task, tokenizer, text)
    wholes = [encode_text(task, tokenizer, text + tail) for tail in texts]
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
    # What a task file can fix is to be fixed there: users of an exported model send the prompt as
    # text, and the model would never have seen a text that goes on from those tokens.
    if isinstance(task, GenerationTask):
        return False  # the prompt alone must be how the learnt text begins
    if task.template == "chat":
        return True
    return not task.words and not task.prompt.endswith((" ", "\t"))


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
