"""Greedy generation after prompts, in batches, cut at a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.row_batches import bucketed
from orchestrator.spec.task_kinds import GenerationTask


def prompt_batches(
    prompts: Sequence[Tokens], task: GenerationTask, batch_tokens: int
) -> list[list[int]]:
    """Indices of the prompts in batches that are written after together.

    Args:
        prompts: The prompts.
        task: Says how much is written.
        batch_tokens: Padded tokens per batch that are read at a time; a batch holds as many rows as
            fit when each has been written to its end, and at least one.

    Returns:
        The batches, longest prompts first.
    """
    rows = [Scored((0,) * (len(p) + task.max_new_tokens), ()) for p in prompts]
    # A written token costs one row's pass, not a whole sequence: four times the rows fit. Each
    # batch takes as many passes as tokens are written, which no saved padding repays.
    return bucketed(rows, 4 * batch_tokens, shortest=0.0)


class _NotFinite:
    """Remembers the rows of a generation batch whose scores of a next token were no numbers."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = torch.zeros(rows, dtype=torch.bool, device=device)

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        # Minus infinity is how tokens are ruled out; it is no sign of broken weights.
        self.rows |= (scores.isnan() | scores.isposinf()).any(dim=-1)
        return scores


class _Stops:
    """Ends a row of a generation batch once its new text holds one of some texts."""

    TAIL = 24
    """New tokens decoded to look for them; more than any sensible stop text has."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], begin: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._begin = begin

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        new = input_ids[:, max(self._begin, input_ids.shape[1] - self.TAIL) :]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        done = [any(stop in text.lstrip() for stop in self._stop) for text in texts]
        return torch.tensor(done, device=input_ids.device, dtype=torch.bool)


def write_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Tokens],
    task: GenerationTask,
    device: torch.device,
    *,
    synced: bool = False,
) -> list[str | None]:
    """Greedy continuations of some prompts.

    Args:
        model: A causal language model, or a `peft.PeftModel` around one.
        tokenizer: Its tokenizer.
        prompts: Token ids; padded on the left, with a mask.
        task: How much is written, and what ends it.
        device: Where the model is.
        synced: Whether workers that are done go on computing for those that are not (ZeRO-3).

    Returns:
        The new texts, cut before the first stop text and stripped; None where the scores of a next
        token were no numbers. Space before the first word does not count as a stop: a chat template
        may end without the line break.

    Raises:
        ValueError: If there is no tokenizer.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    if tokenizer is None:
        raise ValueError("Writing needs the model's tokenizer; give the engine one.")
    length = max(len(prompt) for prompt in prompts)
    # A padding token is often added to a tokenizer alone; masked, it would still be looked up.
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    fitting = (
        token
        for token in (tokenizer.pad_token_id, tokenizer.eos_token_id)
        if token is not None and (rows is None or token < rows)
    )
    padding = next(fitting, 0)
    input_ids = torch.full((len(prompts), length), int(padding), dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for index, prompt in enumerate(prompts):
        input_ids[index, length - len(prompt) :] = torch.tensor(prompt)
        mask[index, length - len(prompt) :] = 1
    settings = GenerationConfig(
        max_new_tokens=task.max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=int(padding),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    broken = _NotFinite(len(prompts), device)
    with torch.no_grad():
        written = model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([broken]),  # type: ignore[list-item]
            stopping_criteria=StoppingCriteriaList([_Stops(tokenizer, task.stop, length)])  # type: ignore[list-item]
            if task.stop
            else None,
            synced_gpus=synced,
        )
    texts = tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)
    return [
        None if is_broken else _cut(text.lstrip(), task.stop)
        for text, is_broken in zip(texts, broken.rows.tolist(), strict=True)
    ]


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)].strip() if ends else text.strip()
