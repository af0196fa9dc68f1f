"""Passes over rows of one sequence each, padded on the right: no mask, and nothing to ask for one.

Before the first layer transformers asks the device whether a row holds several sequences, and the
host waits for the answer in every pass. Where rows are known to hold one, causal attention needs no
mask: the fused attention is then called as it is called after the question. Under a CUDA graph,
where it cannot be asked, a mask is made for the worst case instead, and is slower.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "curlora_causal"
"""The fused attention under a name for which transformers knows no mask, and so makes none."""

AttentionInterface.register(ATTENTION, ALL_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def causal_rows(model: Any) -> Iterator[None]:
    """Within it, passes without a mask and without a cache ask the device nothing.

    Only where a model calls the fused attention by its name, in all layers and over all tokens;
    others are as ever. One that compares the name itself would attend to what follows.

    Args:
        model: A model of transformers; its config is changed for the time.
    """
    config: Any = model.config
    by_name = getattr(model, "_supports_attention_backend", False)
    if not (by_name and _fused_and_full(config)):
        yield
        return
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _fused_and_full(config: Any) -> bool:
    if getattr(config, "_attn_implementation", None) != "sdpa":
        return False
    windows = ("sliding_window", "attention_chunk_size", "window_size")
    if any(getattr(config, name, None) is not None for name in windows):
        return False
    if not getattr(config, "is_causal", True) or getattr(config, "sub_configs", None):
        return False
    return set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
