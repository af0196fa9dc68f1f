"""Adapters by kind: their table, attaching, saving and exporting; CURLoRA and SECURA themselves."""
