"""The log-probability of one row of a data set, as a trainer's collator makes it a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100
"""The label of a token that is not scored, as transformers has it."""

Collate = Callable[[list[Any]], Mapping[str, Any]]
"""From rows of a data set to the keyword arguments of a model, labels included."""


class RowScorer:
    """Gives the log-probability of rows, one at a time and without padding."""

    def __init__(self, model: nn.Module, collate: Collate) -> None:
        """Wrap a model.

        Args:
            model: A causal language model of transformers, or a `PeftModel` around one.
            collate: Makes a batch of rows, with `input_ids` and `labels`.
        """
        self._model = model
        self._collate = collate
        self.scored = 0
        """How many tokens of the last row were scored."""

    def log_probability(self, row: Any) -> Tensor:
        """Give the sum over a row's scored tokens.

        Args:
            row: What the collator takes.

        Returns:
            0-dim, in nats, float32 or better, differentiable.

        Raises:
            ValueError: The row has no labels for its tokens, or the model gives logits for others.
        """
        inputs, targets = self.batch_of(row)
        self.scored = int((targets != IGNORED).sum())
        logits = self._model(**inputs, use_cache=False).logits
        given = inputs["input_ids"].shape[1]
        if logits.shape[1] != given:
            raise ValueError(
                f"A row of {given} tokens gave logits for {logits.shape[1]}. Adapters that add "
                "tokens of their own (prompt or prefix tuning) have no retention here."
            )
        wide = logits[0, : len(targets)].to(torch.promote_types(logits.dtype, torch.float32))
        return -nn.functional.cross_entropy(wide, targets, ignore_index=IGNORED, reduction="sum")

    def batch_of(self, row: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Give a row as a batch of one, without padding and without the last token.

        The last token predicts nothing, but what layers are given for it would count in curvature.

        Args:
            row: What the collator takes.

        Returns:
            Keyword arguments of the model, of L - 1 tokens, and what is predicted (L - 1,).

        Raises:
            ValueError: The row has no labels for its tokens.
        """
        device = next(self._model.parameters()).device
        batch = {
            name: value.to(device)
            for name, value in self._collate([row]).items()
            if isinstance(value, Tensor)
        }
        labels = batch.pop("labels", None)
        tokens = batch.get("input_ids")
        if labels is None or tokens is None or labels.shape != tokens.shape or len(tokens) != 1:
            raise ValueError(
                "A retention reads rows of a causal language model: the collator must give "
                f"`input_ids` and `labels` of one shape (rows, tokens), got "
                f"{_shapes(batch, labels)} for one row. Use a collator for language modelling."
            )
        mask = batch.get("attention_mask", torch.ones_like(tokens))
        used = mask[0].nonzero()[:, 0]
        inputs = {
            # A row of one token has nothing to predict; a model takes no empty one.
            name: value[:, used[: max(1, len(used) - 1)]] if value.shape == mask.shape else value
            for name, value in batch.items()
        }
        return inputs, labels[0, used[1:]]


def _shapes(batch: Mapping[str, Tensor], labels: Tensor | None) -> str:
    named = dict(batch) if labels is None else {**batch, "labels": labels}
    return ", ".join(f"`{name}` {tuple(value.shape)}" for name, value in named.items()) or "nothing"
