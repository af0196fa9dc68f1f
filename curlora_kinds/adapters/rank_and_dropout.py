"""Settings that several adapters have."""

from __future__ import annotations

from curlora_kinds.settings import Number, Whole

RANK = Whole(16, "Rank.", least=1)
DROPOUT = Number(0.0, "Share of the inputs that is dropped in training.", least=0, below=1)
