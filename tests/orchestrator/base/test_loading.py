"""Families of base models, tiny and random: what is known of each, and what adapters do on it."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from curlora.adapters.attach import attach
from curlora.adapters.saving import load_adapter, save_adapter
from curlora.targets import default_targets, quantisation_refuses_engine
from curlora_kinds.adapters.table import sharding_refuses
from orchestrator.base.facts import base_facts, linear_shapes
from orchestrator.base.loading import load_base
from orchestrator.engines.scored_model import ScoredModel, check_logits
from orchestrator.spec.sections import ModelSpec

_SHAPE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "initializer_range": 0.2,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**_SHAPE),
    "mistral": MistralConfig(**_SHAPE),
    "qwen2": Qwen2Config(**_SHAPE),
    # Heads wider than the model, norms of queries and keys, capped logits, tied embeddings.
    "gemma3_text": Gemma3TextConfig(**_SHAPE, head_dim=16, final_logit_softcapping=2.0),
    "gpt2": GPT2Config(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.2
    ),
}
TOKENS = torch.arange(3, 15)[None]


@pytest.fixture(scope="module", params=list(CONFIGS))
def family(request, tmp_path_factory):
    """A family's name and the folder of a model of it."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[request.param]))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # transformers starts biases at zero
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return request.param, folder


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


@pytest.mark.parametrize("kind", ["curlora", "lora"])
def test_an_adapter_of_default_targets_starts_learns_and_comes_back(family, kind, tmp_path):
    name, folder = family
    spec = ModelSpec(name=str(folder))
    base = load_base(spec, "fp32")
    assert base.config.model_type == name
    before = logits(base)
    settings = {"r": 4, "target_modules": default_targets(name)}
    model = attach(base, kind, settings, seed=0)
    assert torch.equal(logits(model), before)
    model.train()
    loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    torch.optim.AdamW(trained, lr=0.1).step()
    learnt = logits(model)
    assert not torch.equal(learnt, before)
    save_adapter(model, tmp_path)
    assert torch.equal(logits(load_adapter(load_base(spec, "fp32"), tmp_path)), learnt)


def test_logits_are_known(family):
    _, folder = family
    check_logits(ScoredModel(load_base(ModelSpec(name=str(folder)), "fp32")), 40)


def test_sizes_are_those_of_the_model(family):
    name, folder = family
    facts = base_facts(ModelSpec(name=str(folder)))
    model = load_base(ModelSpec(name=str(folder)), "fp32")
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert (facts.hidden, facts.layers, facts.heads, facts.vocabulary) == (32, 2, 4, 40)
    assert facts.intermediate == (128 if name == "gpt2" else 48)
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "weight") and m.weight.ndim == 2}
    expected = {}
    for path, layer in layers.items():
        if isinstance(layer, torch.nn.Linear):
            expected[path] = tuple(layer.weight.shape)
        elif type(layer).__name__ == "Conv1D":
            expected[path] = tuple(reversed(layer.weight.shape))
    expected.pop("lm_head", None)
    assert facts.shapes == expected == linear_shapes(ModelSpec(name=str(folder)))


def test_weights_take_fewer_bytes_quantised(family):
    _, folder = family
    facts = base_facts(ModelSpec(name=str(folder)))
    linear = sum(rows * columns for rows, columns in facts.shapes.values())
    rest = facts.parameters - linear
    assert facts.weight_bytes(2, None) == 2 * facts.parameters
    assert facts.weight_bytes(2, "int8") == 2 * rest + linear
    assert facts.weight_bytes(2, "nf4") == 2 * rest + linear * 0.5625


def test_an_unknown_family_has_no_default():
    with pytest.raises(ValueError, match=r"no default is known .*'lama'.* Did you mean 'llama'"):
        default_targets("lama")


def test_an_engine_that_cannot_hold_a_quantised_base_is_named():
    assert quantisation_refuses_engine(None, 3) is None
    assert quantisation_refuses_engine("nf4", 2) is None
    assert quantisation_refuses_engine("torchao_int8", None) is None
    assert "stage 0, 1 or 2" in quantisation_refuses_engine("int8", 3)
    assert "executor: local" in quantisation_refuses_engine("torchao_int8", 0)


def test_an_adapter_that_a_sharded_base_cannot_have_is_named():
    assert sharding_refuses("curlora", 3) is None
    assert sharding_refuses("dora", 2) is None
    assert sharding_refuses("dora", None) is None
    assert "stage 0, 1 or 2" in sharding_refuses("dora", 3)
