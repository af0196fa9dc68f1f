"""No retention."""

from __future__ import annotations

from curlora_kinds.retentions.kind import RetentionKind, waits_for_a_second_task

KIND = RetentionKind(
    name="none",
    summary="Nothing is protected: the same adapter goes on training.",
    made_by="curlora.retention.protocol:Retention",
    guards_adapter=False,
    packable=True,
    first_task=waits_for_a_second_task,
)
