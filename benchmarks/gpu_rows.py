"""Rows of mixed lengths of several adapters in one batch, their losses, and an adapter alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import curlora
from curlora.causal_rows import causal_rows

RATE, DECAY, MOST = 1e-3, 0.01, 1.0
"""Learning rate, weight decay, and the norm that gradients are clipped to."""


@dataclass
class Batch:
    """Rows of several slots, padded on the right; every token but the first is predicted."""

    input_ids: Tensor
    places: Tensor
    targets: Tensor
    owners: list[int]
    """The slot of each target."""
    rows: list[int]
    """The slot of each row."""


def batch_of(rows: Sequence[tuple[int, Tensor]], device: str) -> Batch:
    """Rows (slot, tokens) as a batch."""
    longest = max(len(tokens) for _, tokens in rows) - 1
    input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
    places: list[int] = []
    for index, (_, tokens) in enumerate(rows):
        input_ids[index, : len(tokens) - 1] = tokens[:-1]
        places += range(index * longest, index * longest + len(tokens) - 1)
    return Batch(
        input_ids.to(device),
        torch.tensor(places, device=device),
        torch.cat([tokens[1:] for _, tokens in rows]).to(device),
        [slot for slot, tokens in rows for _ in tokens[1:]],
        [slot for slot, _ in rows],
    )


def losses_of(model: Any, batch: Batch) -> dict[int, Tensor]:
    """The mean loss of every slot's targets, by slot."""
    with causal_rows(model.model):
        hidden = model.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    picked = hidden.reshape(-1, hidden.shape[-1])[batch.places]
    each = cross_entropy(model.lm_head(picked).float(), batch.targets, reduction="none")
    owner = torch.tensor(batch.owners, device=each.device)
    return {slot: each[owner == slot].mean() for slot in dict.fromkeys(batch.owners)}


class Solo:
    """One adapter by itself, with torch's own AdamW."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.params = curlora.trainable_parameters(model)
        self._optimizer = torch.optim.AdamW(self.params.values(), lr=RATE, weight_decay=DECAY)

    def backward(self, batch: Batch) -> Tensor:
        """Its loss, with gradients."""
        (loss,) = losses_of(self.model.base_model.model, batch).values()
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        """Clip and step."""
        nn.utils.clip_grad_norm_(self.params.values(), MOST)
        self._optimizer.step()
        self._optimizer.zero_grad()
