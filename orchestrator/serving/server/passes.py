"""Passes over the base that rows of several adapters share, and which write nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curlora.packing.pack import BARE, PackedModel
from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.joint_rows import JointRows, layout_of
from orchestrator.engines.row_batches import heads_of, padded, scoring_batches
from orchestrator.engines.scored_model import LOGIT_ROWS, ScoredModel
from orchestrator.engines.shards import values_by_row
from orchestrator.engines.workers import ALONE
from orchestrator.serving.server.sampling import TokenChances, chances_of


class SharedReading:
    """Log-probabilities of rows, each through its own adapter."""

    def __init__(self, scored: ScoredModel, pack: PackedModel, pass_tokens: int) -> None:
        """Take a base.

        Args:
            scored: The base with the heads of all adapters, in evaluation mode.
            pack: The adapters on it.
            pass_tokens: Padded tokens of a pass at most.
        """
        self._scored, self._pack, self._tokens = scored, pack, pass_tokens
        self._device = next(scored.parameters()).device
        self._joint = JointRows(scored.base, ALONE)

    def values(self, rows: Sequence[Scored], slots: Sequence[int]) -> list[list[float]]:
        """The log-probability of every pick of every row.

        Args:
            rows: What is read.
            slots: The slot of each, or `curlora.packing.pack.BARE`.

        Returns:
            By row, in nats.
        """
        with torch.no_grad():
            parts = self._joint.parts(rows, self._tokens, self._bare)
            found: list[list[float]] = [[] for _ in parts.rows]
            for batch in scoring_batches(parts.rows, self._tokens, self._device):
                # Neighbours of one slot are multiplied together.
                chosen = sorted(batch, key=lambda i: slots[parts.origins[i]])
                owners = [slots[parts.origins[i]] for i in chosen]
                values = self._read([parts.rows[i] for i in chosen], owners)
                for index, value in zip(chosen, values, strict=True):
                    found[index] = value
        return parts.values(found)

    def _bare(self, rows: Sequence[Scored]) -> list[list[float]]:
        return self._read(rows, [BARE] * len(rows))

    def _read(self, rows: Sequence[Scored], slots: Sequence[int]) -> list[list[float]]:
        inputs = padded(rows, self._device)
        with self._pack.rows(slots):
            found = self._scored(
                *inputs, heads_of(rows, self._device), layout=layout_of(rows, self._device)
            )
        return values_by_row(found, rows)

    def prompt_chances(self, prompt: Tokens, slot: int, top: int) -> list[TokenChances]:
        """The log-probabilities of a prompt's own tokens.

        Args:
            prompt: Its token ids, at least one.
            slot: The adapter's, or `BARE`.
            top: How many of the likeliest tokens are named at each place.

        Returns:
            One for each token; of the first there is none.
        """
        first = TokenChances(prompt[0], None)
        if len(prompt) == 1:
            return [first]
        row = Scored(prompt[:-1], tuple((i, t) for i, t in enumerate(prompt[1:])))
        ids, places, _ = padded([row], self._device)
        with torch.no_grad():
            with self._pack.rows([slot]):
                hidden: Tensor = self._scored(ids, places, None)
            weight = next(self._scored.base.get_output_embeddings().parameters())
            found = [first]
            for begin in range(0, len(hidden), LOGIT_ROWS):
                part = hidden[begin : begin + LOGIT_ROWS].to(weight.dtype)
                tokens = prompt[1 + begin : 1 + begin + LOGIT_ROWS]
                found += chances_of(self._scored.logits(part), tokens, top)
        return found
