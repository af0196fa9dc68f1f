"""What an adapter reads of a whole weight when it starts, kept where many adapters start from it.

CURLoRA chooses columns and rows by their energy, and recognises the weight by a sketch of it: both
read every number of the weight, and neither depends on the adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from curlora.cur.fingerprint import sketch
from curlora.cur.selection import energy_shares

_KEPT_AS = "curlora_weight_facts"


@dataclass(frozen=True)
class WeightFacts:
    """What depends on a weight alone."""

    shares: tuple[Tensor, Tensor]
    """Of the energy, by column and by row: see `curlora.cur.selection.energy_shares`."""
    sketch: Tensor
    """See `curlora.cur.fingerprint.sketch`."""

    def __deepcopy__(self, memo: Any) -> WeightFacts:
        """Share it with copies of the module that it is kept on: nobody writes to it."""
        return self


def keep_facts(layer: nn.Module, W: Tensor) -> None:
    """Compute the facts of a layer's weight and keep them on the layer.

    Args:
        layer: A linear layer. Its weight must not change from now on.
        W: Its weight (d_out, d_in).

    Raises:
        ValueError: `W` is all zeros, or holds a NaN or an infinity.
    """
    setattr(layer, _KEPT_AS, WeightFacts(energy_shares(W), sketch(W)))


def kept_facts(layer: nn.Module) -> WeightFacts | None:
    """Give what is kept on a layer.

    Args:
        layer: A linear layer.

    Returns:
        The facts of its weight; None where none were kept.
    """
    return getattr(layer, _KEPT_AS, None)
