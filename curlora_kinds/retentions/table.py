"""What can protect earlier knowledge while a task is learnt: one table of kinds.

    retention = RETENTIONS["laplace"].build({"curvature": "kfac", "strength": 10.0})

A method is an adapter and a retention, chosen independently; `refuses` says which pairs make no
sense. What a retention does at which moment: `curlora.retention.protocol`.
"""

from __future__ import annotations

from typing import TypeGuard

from curlora_kinds.retentions import ewc, ewc_weight, ilora, laplace, none, olora, replay
from curlora_kinds.retentions.kind import RetentionKind
from curlora_kinds.table import Table


def _is_kind(thing: object) -> TypeGuard[RetentionKind]:
    return isinstance(thing, RetentionKind)


RETENTIONS: Table[RetentionKind] = Table(
    "retention",
    (
        none.KIND,
        ewc.KIND,
        ewc_weight.KIND,
        laplace.KIND,
        replay.KIND,
        ilora.KIND,
        olora.KIND,
    ),
    takes=_is_kind,
    name_of=lambda kind: kind.name,
)
"""From the name of a kind to what it is."""


def packed_retentions() -> tuple[str, ...]:
    """Name the kinds that can protect an adapter in a pack (`curlora.packing`)."""
    return tuple(kind.name for kind in RETENTIONS.values() if kind.packable)
