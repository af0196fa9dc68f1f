import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from curlora.causal_rows import causal_rows
from tests.host_waits import HostWaits


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma"])
def test_a_pass_without_a_mask_gives_the_same_bits_and_asks_nothing(build_base, tokens, family):
    base = build_base(family)
    wanted = base(input_ids=tokens, use_cache=False).logits
    with causal_rows(base), HostWaits() as waits:
        found = base(input_ids=tokens, use_cache=False).logits
    assert torch.equal(found, wanted)
    assert waits.found == []
    assert base.config._attn_implementation == "sdpa"


def test_without_it_transformers_asks_in_every_pass(build_base, tokens):
    """Once this fails, transformers has changed and `causal_rows` may have nothing left to do."""
    with HostWaits() as waits:
        build_base()(input_ids=tokens, use_cache=False)
    assert len(waits.found) == 1


def test_a_mask_that_is_given_is_used(build_base, tokens):
    base, length = build_base(), tokens.shape[1]
    diagonal = torch.eye(length, dtype=torch.bool).expand(len(tokens), 1, length, length)
    wanted = base(input_ids=tokens, attention_mask=diagonal, use_cache=False).logits
    with causal_rows(base):
        found = base(input_ids=tokens, attention_mask=diagonal, use_cache=False).logits
    assert torch.equal(found, wanted)
    assert not torch.allclose(found, base(input_ids=tokens, use_cache=False).logits)


def test_windows_plain_attention_and_old_models_are_left_alone(build_base):
    """Falcon compares the name of its attention itself: under another it would look ahead."""
    eager, windowed = build_base(), build_base("mistral")
    eager.config._attn_implementation = "eager"
    assert windowed.config.sliding_window is not None
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    falcon = FalconForCausalLM(FalconConfig(**sizes))
    assert falcon.config._attn_implementation == "sdpa"
    for base in (eager, windowed, falcon):
        before = base.config._attn_implementation
        with causal_rows(base):
            assert base.config._attn_implementation == before
