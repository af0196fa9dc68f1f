"""What can protect earlier knowledge while a task is learnt: one file a kind, and their table."""

from curlora.retention.kind import RetentionKind, Setting
from curlora.retention.table import EWC_LORA_STRENGTH, RETENTIONS

__all__ = ["EWC_LORA_STRENGTH", "RETENTIONS", "RetentionKind", "Setting"]
