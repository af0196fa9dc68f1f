"""Shapes, counts and family of a base in a GGUF file."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.base.errors import COPY_AGAIN, BaseFilesError


def gguf_family(path: Path) -> str:
    """The architecture that a GGUF file names; empty where it names none."""
    from gguf import GGUFReader

    field_ = GGUFReader(str(path)).fields.get("general.architecture")
    return str(field_.contents()) if field_ is not None else ""


_GGUF_NAMES = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
}


def gguf_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes under Hugging Face's names, and the counts in the metadata."""
    from gguf import GGUFReader

    try:
        # Reading maps every tensor, so that a file that is cut short is found.
        reader = GGUFReader(str(path))
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise BaseFilesError(
            f"{path} is not a complete GGUF file ({error}). {COPY_AGAIN}"
        ) from None
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in reader.tensors:
        # GGUF writes the fastest dimension first.
        shape = tuple(int(size) for size in reversed(tensor.shape))
        name = str(tensor.name).replace("token_embd.", "embed_tokens.")
        name = re.sub(r"^output\.", "lm_head.", name)
        for theirs, ours in _GGUF_NAMES.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        shapes[name] = shape
    counts = {
        field_name.rsplit(".", 1)[-1]: int(reader.fields[field_name].contents())
        for field_name in reader.fields
        if field_name.endswith(
            (".block_count", ".attention.head_count", ".feed_forward_length", ".context_length")
        )
    }
    return shapes, counts
