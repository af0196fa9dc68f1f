"""Tiny models of the families that matter, built from configs: no download."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 64
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # so that an adapter of columns and rows is felt
}
_FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SHAPE)),
    # Gemma: heads wider than the model, so q_proj is (64, 32), and tied embeddings.
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_SHAPE, head_dim=16, pad_token_id=0)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.2,
        )
    ),
}
TARGETS = {
    "llama": ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],  # attn.c_proj is square
}


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def build_base() -> Callable[..., nn.Module]:
    """Give a function that builds the same tiny base model again and again."""

    def build(family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _FAMILIES[family]()
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # transformers starts biases at zero
                    nn.init.normal_(parameter, std=0.1)
        return model.to(dtype).eval()

    return build


@pytest.fixture(scope="session")
def targets() -> dict[str, list[str]]:
    return TARGETS


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def train() -> Callable[..., None]:
    """Give a function that moves every trainable parameter away from where it started."""

    def move(model: nn.Module, *, seed: int = 3, scale: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator) * scale
                    parameter.add_(noise.to(parameter.dtype))

    return move
