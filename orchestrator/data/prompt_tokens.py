"""Prompts as token ids, shortened where they do not fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.data.formats.placed_row import DataError, Row
from orchestrator.data.items import Tokens
from orchestrator.data.prompts import rendered_prompt
from orchestrator.spec.task_kinds import PromptedTask


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


def is_estimate(tokenizer: Any) -> bool:
    """Whether a tokenizer only stands in for the model's, so that its tokens say nothing exact."""
    return bool(getattr(tokenizer, "is_estimate", False))


def encode_prompt(task: PromptedTask, row: Row, tokenizer: Any, max_length: int) -> Tokens:
    """A row's prompt alone, to be answered; no label or reference is needed."""
    return fitted_prompt(task, row, tokenizer, max_length)[1]


def fitted_prompt(
    task: PromptedTask, row: Row, tokenizer: Any, budget: int
) -> tuple[Row, Tokens, bool]:
    """A row's prompt in at most `budget` tokens.

    The longest columns lose their ends until the prompt fits: instructions, the chat template and
    the shorter text of a pair stay whole. Only where that cannot help does the prompt lose its
    beginning (its opening token stays).

    Args:
        task: The task.
        row: One row with canonical column names.
        tokenizer: A Hugging Face tokenizer.
        budget: Tokens at most, at least 1.

    Returns:
        The row as it was shown, the prompt's tokens, and whether nothing was lost.
    """
    shown: Row = row
    tokens = encode_text(task, tokenizer, rendered_prompt(task, shown, tokenizer))
    if len(tokens) <= budget:
        return shown, tokens, True
    # Cutting text and tokenising it again can change the count by a few, hence several rounds.
    for _ in range(4):
        shorter = _shortened(task, shown, tokenizer, len(tokens) - budget)
        if shorter is None:
            break
        shown = shorter
        tokens = encode_text(task, tokenizer, rendered_prompt(task, shown, tokenizer))
        if len(tokens) <= budget:
            return shown, tokens, False
    begins_with_bos = budget > 1 and tokens[0] == tokenizer.bos_token_id
    kept = (tokens[0], *tokens[len(tokens) - budget + 1 :]) if begins_with_bos else tokens[-budget:]
    return shown, kept, False


def _shortened(task: PromptedTask, row: Row, tokenizer: Any, excess: int) -> Row | None:
    """The row with `excess` tokens taken off the ends of the longest columns of its prompt."""
    texts = {
        name: list(tokenizer(str(row[name]), add_special_tokens=False)["input_ids"])
        for name in task.prompt_columns  # in order, the same in each process
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


def encode_text(task: PromptedTask, tokenizer: Any, text: str) -> Tokens:
    """A text as token ids, without the end of the text that some tokenizers add."""
    # A chat template writes the special tokens itself.
    special = task.template == "raw"
    tokens = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    if special and tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()  # some tokenizers close every text; ours goes on
    if not tokens:
        raise DataError(f"The text {text!r} has no tokens, so nothing can follow it.")
    return tuple(tokens)
