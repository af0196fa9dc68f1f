"""No adapter: the base itself is trained."""

from __future__ import annotations

import math
from typing import Any

from curlora_kinds.adapters.counts import Shapes
from curlora_kinds.adapters.kind import AdapterKind


def _every_parameter(_: dict[str, Any], shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


KIND = AdapterKind(
    name="full",
    summary="No adapter: every parameter of the base is trained.",
    count_trained=_every_parameter,
    changes_base="train",
    reads_weight=True,
    quantised="trains the weights of the base themselves, and a quantised weight takes no gradient",
)
