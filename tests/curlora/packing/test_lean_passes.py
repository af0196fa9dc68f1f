"""A base's cheaper norms and attention give what its own give, and leave alone what they cannot."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from curlora.packing import lean_passes
from curlora.packing.lean_passes import LeanPasses, grouped_attention
from curlora.packing.pack import BARE, PackedModel

BFLOAT = torch.bfloat16


def gradients(function, *inputs, seed=1):
    """The output of a function, and the gradients of its inputs for a fixed one of the output."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    G = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out.dtype)
    return out.detach(), torch.autograd.grad(out, leaves, G)


def error(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


def test_a_norm_has_the_same_bits_and_no_worse_a_gradient():
    own = LlamaRMSNorm(48, 1e-5).to(BFLOAT).requires_grad_(False)
    own.weight.copy_(torch.randn(48))
    x = torch.randn(2, 5, 48).to(BFLOAT) * 4
    stock, [stock_gradient] = gradients(own, x)

    def exact(x):
        return own.weight.double() * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

    _, [wanted] = gradients(exact, x.double())
    found, [gradient] = gradients(lambda x: lean_passes._RMSNorm.apply(x, own.weight, 1e-5), x)
    assert torch.equal(found, stock)
    assert error(gradient, wanted) <= 1.2 * error(stock_gradient, wanted)


class Layer(nn.Module):
    """What an attention function reads of its layer."""

    __module__ = modeling_llama.__name__
    num_key_value_groups = 3
    training = False


@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_that_of_the_model_and_no_worse(masked):
    q, k, v = (torch.randn(2, heads, 7, 16).to(BFLOAT) for heads in (6, 2, 2))
    mask = None
    if masked:  # causal, and the first row's last two places are padding
        mask = torch.full((2, 1, 7, 7), torch.finfo(BFLOAT).min, dtype=BFLOAT).triu(1)
        mask[0, :, :, 5:] = torch.finfo(BFLOAT).min

    def attend(function, mask):
        return lambda q, k, v: function(Layer(), q, k, v, mask, scaling=0.3)[0]

    own = modeling_llama.eager_attention_forward
    stock, stock_gradients = gradients(attend(own, mask), q, k, v)

    def exact(q, k, v):
        k, v = (t.repeat_interleave(3, dim=1) for t in (k, v))
        scores = 0.3 * q @ k.mT + (0 if mask is None else mask.double())
        return (scores.softmax(-1) @ v).transpose(1, 2)

    wanted, wanted_gradients = gradients(exact, q.double(), k.double(), v.double())
    found, found_gradients = gradients(attend(grouped_attention, mask), q, k, v)
    assert error(found, wanted) <= 1.3 * error(stock, wanted)
    for mine, theirs, exactly in zip(
        found_gradients, stock_gradients, wanted_gradients, strict=True
    ):
        assert error(mine, exactly) <= 1.5 * error(theirs, exactly)


def test_attention_that_does_more_is_left_to_the_model(monkeypatch):
    q = torch.randn(1, 2, 3, 4).to(BFLOAT)
    called: list[dict[str, Any]] = []

    def own(module, query, key, value, mask, **settings):
        called.append(settings)
        return torch.zeros_like(query.transpose(1, 2)), None

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", own)
    monkeypatch.setattr(lean_passes, "_agreement", {})
    layer = Layer()
    for settings in ({}, {"scaling": 1.0, "softcap": 5.0}, {"scaling": 1.0, "dropout": 0.5}):
        found, _ = grouped_attention(layer, q, q, q, None, **settings)
        assert not found.any()
    assert len(called) == 3
    # One that computes something else is found out by its first call, and asked from then on.
    for _ in range(2):
        assert not grouped_attention(layer, q, q, q, None, scaling=1.0)[0].any()
    assert lean_passes._agreement == {Layer: False}


def test_a_norm_that_computes_something_else_is_left_alone(build_base):
    class Shifted(LlamaRMSNorm):
        def forward(self, x):
            return super().forward(x) + x

    base = build_base(dtype=BFLOAT).requires_grad_(False)
    width = base.config.hidden_size
    base.model.norm = Shifted(width).to(BFLOAT).requires_grad_(False)
    LeanPasses(base)
    assert "forward" not in vars(base.model.norm)
    assert "forward" in vars(base.model.layers[0].input_layernorm)


def test_a_pack_in_16_bits_uses_them_and_puts_everything_back(build_base):
    tokens = torch.randint(0, 64, (2, 6))
    base: Any = build_base(dtype=BFLOAT)
    base.config._attn_implementation = "eager"
    with torch.no_grad():
        wanted = base(input_ids=tokens).logits
        pack = PackedModel(base, ["q_proj", "v_proj"], capacity=1)
        pack.join(0, "lora", {"r": 2}, seed=0)
        assert torch.equal(base(input_ids=tokens).logits, wanted)
        with pack.rows([BARE, 0]):
            assert base.config._attn_implementation == lean_passes.ATTENTION
            found = base(input_ids=tokens).logits
        assert error(found, wanted.double()) < 0.02
        assert base.config._attn_implementation == "eager"
        pack.unhook()
        assert torch.equal(base(input_ids=tokens).logits, wanted)
    assert not any("forward" in vars(module) for module in base.modules())


def test_texts_are_written_with_them_as_without(build_base):
    base: Any = build_base(dtype=BFLOAT)
    base.config._attn_implementation = "eager"
    prompts = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])  # padded on the left
    options = {"attention_mask": (prompts > 0).long(), "max_new_tokens": 5, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True, "use_cache": True}
    wanted = base.generate(input_ids=prompts, **options)
    pack = PackedModel(base, ["q_proj", "v_proj"], capacity=1)
    pack.join(0, "lora", {"r": 2}, seed=0)  # still zero
    with pack.rows([0, 0]):
        found = base.generate(input_ids=prompts, **options)
    assert error(found.logits[0], wanted.logits[0].double()) < 0.02
    assert torch.equal(found.sequences[:, :5], wanted.sequences[:, :5])


def test_wider_bases_are_left_alone(build_base):
    base = build_base()
    passes = LeanPasses(base.requires_grad_(False))
    assert not any("forward" in vars(module) for module in base.modules())
    with passes.attention():
        assert base.config._attn_implementation != lean_passes.ATTENTION
