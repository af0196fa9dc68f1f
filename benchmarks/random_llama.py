"""Llamas with random weights, made from their sizes alone: no hub, no network, no files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Sizes:
    """What makes a Llama as large as it is."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


SIZES = {
    "tiny": Sizes(64, 128, 2, 4, 2, 512),
    "small": Sizes(512, 1408, 4, 8, 4, 4096),
    "cpu": Sizes(576, 1536, 8, 9, 3, 8192),
    "llama-1b": Sizes(2048, 8192, 16, 32, 8, 128256),
    "llama-8b": Sizes(4096, 14336, 32, 32, 8, 128256),
}


def random_llama(
    sizes: Sizes,
    *,
    device: str,
    dtype: torch.dtype,
    positions: int = 2048,
    tied: bool = False,
    spread: float = 0.02,
) -> LlamaForCausalLM:
    """A frozen Llama, the same every time on the same device.

    Args:
        sizes: How large.
        device: Where its weights are drawn.
        dtype: Of its weights.
        positions: Tokens of a row at most.
        tied: Whether the output layer is the embedding.
        spread: Standard deviation of the weights.

    Returns:
        The model, in evaluation mode.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.hidden, intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads, max_position_embeddings=positions,
        tie_word_embeddings=tied, initializer_range=spread, dtype=dtype,
    )  # fmt: skip
    with torch.device(device):
        base = LlamaForCausalLM(config).to(dtype)
    return base.eval().requires_grad_(False)
