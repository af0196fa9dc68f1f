"""A causal language model that computes logits only where something is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curlora.causal_rows import causal_rows
from curlora.retention.protocol import Retention
from orchestrator.base.errors import ModelError
from orchestrator.engines.joint_rows import Layout, masks_of
from orchestrator.engines.linear_heads import HeadChoice, LinearHeads

LOGIT_ROWS = 1024
"""Scored positions whose logits are held at a time when nothing is learnt."""


def hidden_size(model: Any) -> int:
    """The width of a causal language model's last hidden state."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return int(inner.config.get_text_config().hidden_size)


@dataclass(frozen=True)
class Comparison:
    """Replayed tokens whose hidden states are compared with those under the slow adapter."""

    places: Tensor
    """Which tokens, as indices into the flattened (B * L)."""
    slow: tuple[Tensor, ...]
    """Of each layer, the hidden states (tokens, hidden) under the slow adapter."""
    share: float
    """These tokens' share of all replayed tokens of the step."""


class ScoredModel(nn.Module):
    """A causal language model that computes logits only where something is scored."""

    def __init__(self, model: Any, heads: LinearHeads | None = None) -> None:
        """Wrap a model.

        Args:
            model: A causal language model, or a `peft.PeftModel` around one.
            heads: Linear heads of tasks that have one.
        """
        super().__init__()
        self.model = model
        self.heads = heads
        inner = self.base
        # Kept in a tuple: registering them again would give every parameter a second name.
        self._parts = (getattr(inner, inner.base_model_prefix), inner.get_output_embeddings())
        config = inner.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        self.adapter = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.retention = Retention()

    @property
    def base(self) -> Any:
        """The causal language model, with the adapter in its layers."""
        adapted = hasattr(self.model, "peft_config")
        return self.model.get_base_model() if adapted else self.model

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        targets: Tensor | None,
        head: HeadChoice = None,
        comparison: Comparison | None = None,
        layout: Layout | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The log-probability of each target.

        Rows are padded on the right and carry no mask: causal attention never looks at what
        follows, and nothing is read at a padded place. Only batches with joint rows have one.

        Args:
            input_ids: Token ids (B, L).
            positions: Where to read, as indices into the flattened (B * L), shape (N,).
            targets: The tokens, or labels of a head, whose log-probability is wanted, shape (N,);
                None asks for the hidden states (N, hidden) instead, float32.
            head: Whose linear head is read; None: the model's own output layer.
            comparison: What hidden states are compared with, where the retention does so.
            layout: Positions and continuations of the tokens; None: every row is running text.

        Returns:
            Log-probabilities (N,), in nats, float32 (float64 of a base in that). In training mode a
            pair: these, and what the retention adds to the loss, a scalar.
        """
        backbone, _ = self._parts
        deep = comparison is not None
        plain = causal_rows(backbone) if layout is None else nullcontext()
        with plain, masks_of(layout) as more:
            states = backbone(
                input_ids=input_ids, use_cache=False, output_hidden_states=deep, **more
            )
        hidden = states.last_hidden_state
        picked = hidden.reshape(-1, hidden.shape[-1])[positions]
        if targets is None:
            return picked.float()
        if isinstance(head, Mapping):
            found = _wide(picked.new_zeros(len(targets)))
            for name, places in head.items():
                part = self._read(picked[places], targets[places], name)
                found = found.index_put((places,), part.to(found.dtype))
        else:
            found = self._read(picked, targets, head)
        if not self.training:
            return found
        # Within this forward, because that is when ZeRO-3 has the parameters gathered.
        extra = self.retention.penalty(self.adapter)
        if comparison is not None:
            fast = _at(states.hidden_states, comparison.places)
            extra = extra + self.retention.hidden_loss(fast, comparison.slow) * comparison.share
        return found, extra

    def states(self, input_ids: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        """The hidden states of every layer at some tokens.

        Args:
            input_ids: Token ids (B, L).
            places: Which tokens, as indices into the flattened (B * L), shape (N,).

        Returns:
            (N, hidden) of each layer, the embeddings first.
        """
        backbone, _ = self._parts
        with causal_rows(backbone):
            found = backbone(input_ids=input_ids, use_cache=False, output_hidden_states=True)
        return _at(found.hidden_states, places)

    def _read(self, picked: Tensor, targets: Tensor, head: str | None) -> Tensor:
        """Log-probabilities (N,) at hidden states (N, hidden), by one head."""
        _, output = self._parts
        logits, zero = (None, None) if self.heads is None else self.heads(picked, head)
        if logits is not None:
            found = -nn.functional.cross_entropy(logits, targets, reduction="none")
            return found if zero is None else found + zero
        if torch.is_grad_enabled():
            found = self._log_probabilities(output, picked, targets)
            return found if zero is None else found + zero
        return torch.cat(
            [
                self._log_probabilities(output, part, part_targets)
                for part, part_targets in zip(
                    picked.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True
                )
            ]
        )

    def _log_probabilities(self, head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self._logits(head, hidden)
        return -nn.functional.cross_entropy(logits, targets, reduction="none")

    def _logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        logits = _wide(head(hidden)) * self._scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """The scores of every next token at hidden states (N, hidden): (N, vocabulary), float32."""
        return self._logits(self._parts[1], hidden)

    @property
    def backbone(self) -> Any:
        """The base without its output layer: from token ids to hidden states."""
        return self._parts[0]


def _wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _at(states: Sequence[Tensor], places: Tensor) -> tuple[Tensor, ...]:
    return tuple(layer.reshape(-1, layer.shape[-1])[places] for layer in states)


def check_logits(scored: ScoredModel, vocabulary: int) -> None:
    """Refuse a model whose own logits differ from `ScoredModel`'s (an unknown transformation).

    Args:
        scored: The wrapped model.
        vocabulary: Number of token ids that may be tried.

    Raises:
        ModelError: If the model does something to its logits that is not known here.
    """
    device = next(scored.parameters()).device
    tokens = torch.arange(1, 9, device=device).remainder(vocabulary)[None]
    with torch.no_grad():
        own = scored.model(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
        expected = own.gather(-1, tokens[0, 1:, None])[:, 0]
        got = scored.eval()(tokens, torch.arange(7, device=device), tokens[0, 1:]).float()
    if not torch.allclose(got, expected, atol=0.15, rtol=0.02):
        raise ModelError(
            f"{type(scored.model).__name__} transforms its logits in a way that is not supported: "
            f"log-probabilities of 7 tokens should be {expected.tolist()}, got {got.tolist()}."
        )


def trainable_parameters(scored: ScoredModel) -> dict[str, nn.Parameter]:
    """What is trained: the adapter's parameters, then those of the heads."""
    heads = dict(scored.heads.named_parameters(prefix="heads")) if scored.heads else {}
    return scored.adapter | heads
