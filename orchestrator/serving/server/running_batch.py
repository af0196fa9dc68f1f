"""Texts that are written token by token in one batch, each through its own adapter.

Rows join and leave between any two tokens (Yu et al. 2022, "Orca", Sec. 3: scheduling by
iteration). Their keys and values stand in one tensor a layer, *on the right*: what a row lacks
before its first token is padding, masked, and each row has positions of its own. So the distance of
two places of a row is that of its tokens, and causal and sliding masks are right as they are made.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from curlora.packing.pack import BARE, PackedModel
from orchestrator.data.items import Tokens
from orchestrator.engines.scored_model import ScoredModel

_ARGUMENTS = {"attention_mask", "position_ids", "past_key_values"}
_LAYERS = {"full_attention", "sliding_attention"}
"""Layers that attend by distance or to all; chunks, for one, begin at absolute places."""
_ROUNDING = {2: 0.05, 4: 1e-3, 8: 1e-6}
"""Largest difference of logits that is taken for rounding, relative to the largest one, by the
bytes of a number."""


class RunningBatch:
    """The rows that are being written, in the order of their slots."""

    def __init__(self, scored: ScoredModel, pack: PackedModel) -> None:
        """Take a base.

        Args:
            scored: The base, in evaluation mode.
            pack: The adapters on it.
        """
        self._scored, self._pack = scored, pack
        self._device = next(scored.parameters()).device
        self._cache: DynamicCache | None = None
        self.slots: list[int] = []
        """The slot of each row, or `curlora.packing.pack.BARE`."""
        self._lengths: list[int] = []

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.slots)

    @property
    def width(self) -> int:
        """Tokens of the longest row so far."""
        return max(self._lengths, default=0)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Tokens], slots: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Read new rows and put them beside those that run.

        Args:
            prompts: Token ids of each, at least one.
            slots: The slot of each, or `BARE`.

        Returns:
            The scores of their next tokens (n, vocabulary), float32, in the order given; and the
            new order of all rows, as indices into the old rows followed by the new ones.
        """
        ids = torch.zeros((len(prompts), max(map(len, prompts))), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, ids.shape[1] - len(prompt) :] = torch.tensor(prompt)
        lengths = [len(prompt) for prompt in prompts]
        cache = DynamicCache()
        # Neighbours of one slot are multiplied together.
        order = sorted(range(len(slots)), key=lambda row: slots[row])
        hidden = self._pass(
            ids[order], [lengths[i] for i in order], [slots[i] for i in order], cache
        )
        scores = self._scored.logits(hidden)[torch.tensor(order).argsort()]
        before = len(self.slots)
        self.slots += [slots[i] for i in order]
        self._lengths += [lengths[i] for i in order]
        whole = sorted(range(len(self.slots)), key=lambda row: self.slots[row])
        self._cache = cache if self._cache is None else _beside(self._cache, cache, whole)
        self.slots = [self.slots[i] for i in whole]
        self._lengths = [self._lengths[i] for i in whole]
        return scores, [i if i < before else before + order[i - before] for i in whole]

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Write one token on in every row.

        Args:
            tokens: The token of each.

        Returns:
            The scores of their next tokens (rows, vocabulary), float32.
        """
        assert self._cache is not None
        self._lengths = [length + 1 for length in self._lengths]
        ids = torch.tensor(tokens, dtype=torch.long)[:, None]
        return self._scored.logits(self._pass(ids, self._lengths, self.slots, self._cache))

    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows go but some.

        Args:
            rows: Those that stay, in order.
        """
        if len(rows) == len(self.slots):
            return
        self.slots = [self.slots[row] for row in rows]
        self._lengths = [self._lengths[row] for row in rows]
        if not rows:
            self._cache = None
            return
        assert self._cache is not None
        chosen = torch.tensor(rows, device=self._device)
        for layer in _layers(self._cache):
            layer.keys = layer.keys[:, :, -self.width :].index_select(0, chosen)
            layer.values = layer.values[:, :, -self.width :].index_select(0, chosen)

    def _pass(
        self, ids: Tensor, lengths: Sequence[int], slots: Sequence[int], cache: DynamicCache
    ) -> Tensor:
        """The hidden states (rows, hidden) at the last places of some rows.

        Args:
            ids: The last tokens of each (rows, T).
            lengths: Tokens of each, those of the cache included.
            slots: The slot of each.
            cache: Of what stands before; grows.

        Returns:
            At the end of each row.
        """
        width = cache.get_seq_length() + ids.shape[1]
        places = torch.arange(width)
        begins = width - torch.tensor(lengths)[:, None]
        positions = (places[-ids.shape[1] :] - begins).clamp(min=0)
        with self._pack.rows(slots):
            states = self._scored.backbone(
                input_ids=ids.to(self._device),
                attention_mask=(places >= begins).long().to(self._device),
                position_ids=positions.to(self._device),
                past_key_values=cache,
                use_cache=True,
            )
        return states.last_hidden_state[:, -1]


def _layers(cache: DynamicCache) -> list[Any]:
    return list(cache.layers)


def _beside(one: DynamicCache, other: DynamicCache, order: Sequence[int]) -> DynamicCache:
    """The rows of two caches in one, in an order, both with their ends on the right."""
    rows = torch.tensor(order).argsort()
    for mine, new in zip(_layers(one), _layers(other), strict=True):
        for name in ("keys", "values"):
            a, b = getattr(mine, name), getattr(new, name)
            both = a.new_zeros(len(a) + len(b), a.shape[1], max(a.shape[2], b.shape[2]), a.shape[3])
            own = rows.to(a.device)
            both[own[: len(a)], :, both.shape[2] - a.shape[2] :] = a
            both[own[len(a) :], :, both.shape[2] - b.shape[2] :] = b
            setattr(mine, name, both)
    return one


def why_not_written(scored: ScoredModel, pack: PackedModel) -> str | None:
    """Why a base's rows cannot be written together, found out by trying.

    Args:
        scored: The base, in evaluation mode.
        pack: The adapters on it.

    Returns:
        None if they can.
    """
    name = type(scored.base).__name__
    config = scored.base.config.get_text_config()
    if not inspect.signature(scored.backbone.forward).parameters.keys() >= _ARGUMENTS:
        return f"{name} takes no positions, mask and cache of keys and values"
    odd = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYERS)
    if odd or getattr(config, "attention_chunk_size", None):
        return f"{name} has layers of the kind {odd[0] if odd else 'chunked_attention'}"
    ids = [i % config.vocab_size for i in range(1, 14)]
    texts = [ids, ids[6:12]]
    with torch.inference_mode(), pack.rows([BARE]):
        wanted = [
            scored.logits(
                scored.backbone(
                    input_ids=torch.tensor([text], device=next(scored.parameters()).device),
                    use_cache=False,
                ).last_hidden_state[0]
            )
            for text in texts
        ]
    batch = RunningBatch(scored, pack)
    found = [batch.join([tuple(texts[0][:7])], [BARE])[0][0], batch.step(texts[0][7:8])[0]]
    found += [batch.join([tuple(texts[1][:4])], [BARE])[0][0]]
    both = batch.step([texts[0][8], texts[1][4]])
    expected = [wanted[0][6], wanted[0][7], wanted[1][3], wanted[0][8], wanted[1][4]]
    size = max(float(one.abs().max()) for one in expected)
    apart = max(
        float((one - other).abs().max())
        for one, other in zip([*found, *both], expected, strict=True)
    )
    most = _ROUNDING[next(scored.parameters()).dtype.itemsize] * max(size, 1.0)
    if apart <= most:
        return None
    return f"{name} computes something else in a batch with padding: logits differ by {apart:.3g}"
