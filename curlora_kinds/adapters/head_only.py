"""No adapter: the base stays as it is."""

from __future__ import annotations

from curlora_kinds.adapters.counts import nothing
from curlora_kinds.adapters.kind import AdapterKind

KIND = AdapterKind(
    name="head_only",
    summary="No adapter and a frozen base: only linear heads, which their owner trains.",
    count_trained=nothing,
    quantised=None,
)
