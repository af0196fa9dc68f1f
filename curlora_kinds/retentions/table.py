"""What can protect earlier knowledge while a task is learnt: one table of kinds.

    retention = RETENTIONS["laplace"].build({"curvature": "kfac", "strength": 10.0})

A method is an adapter and a retention, chosen independently; `refuses` says which pairs make no
sense. What a retention does at which moment: `curlora.retention.protocol`.
"""

from __future__ import annotations

from curlora_kinds.retentions import ewc, ewc_weight, ilora, laplace, none, olora, replay
from curlora_kinds.retentions.kind import RetentionKind

RETENTIONS: dict[str, RetentionKind] = {
    kind.name: kind
    for kind in (
        none.KIND,
        ewc.KIND,
        ewc_weight.KIND,
        laplace.KIND,
        replay.KIND,
        ilora.KIND,
        olora.KIND,
    )
}
"""From the name of a kind to what it is."""

PACKED_RETENTIONS = tuple(kind.name for kind in RETENTIONS.values() if kind.packable)
"""The kinds that can protect an adapter in a pack (`curlora.packing`)."""
