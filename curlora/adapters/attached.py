"""What stays on a model that an adapter was attached to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Attached:
    """What `curlora.attach` remembers on the model it returns."""

    kind: str
    """A key of `ADAPTERS`."""
    settings: dict[str, Any]
    """All settings, as completed."""
    initial: dict[str, tuple[Tensor, Tensor]] | None = None
    """Of a kind that changes the base when attached: (B0 times scale, A0) by module name."""


ATTACHED = "_curlora_attached"
"""The attribute under which `curlora.attach` leaves its `Attached` on a model."""
