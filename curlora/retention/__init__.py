"""What can protect earlier knowledge while a task is learnt: one file a kind."""

from curlora_kinds.retentions.ewc_weight import EWC_LORA_STRENGTH
from curlora_kinds.retentions.kind import RetentionKind
from curlora_kinds.retentions.table import RETENTIONS

__all__ = ["EWC_LORA_STRENGTH", "RETENTIONS", "RetentionKind"]
