"""A fresh adapter for every task: what is frozen still counts, and one adapter is written."""

import pytest
import torch
from safetensors.torch import load_file

from curlora import attach, load_adapter, trainable_parameters
from curlora.adapters.renewal import freeze_earlier, fresh_values, save_combined

SETTINGS = {"r": 3, "alpha": 2.0, "target_modules": ["q_proj", "v_proj"]}
KINDS = ["lora", "rslora", "curlora"]


def values(model):
    return {name: p.detach().clone() for name, p in trainable_parameters(model).items()}


def put(model, new):
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter.copy_(new[name])


@pytest.fixture
def after_three_tasks(build_base, train):
    """A model whose third adapter is trained beside two frozen ones, and all three apart."""

    def build(kind):
        model = attach(build_base("llama"), kind, SETTINGS, seed=0).eval()
        names = set(trainable_parameters(model))
        learnt = []
        for task in range(3):
            if task:
                freeze_earlier(model, learnt)
                put(model, fresh_values(model, seed=task))
            train(model, seed=task)
            learnt.append(values(model))
            assert set(trainable_parameters(model)) == names
        return model, learnt

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_that_of_all_updates_summed(kind, after_three_tasks, build_base, tokens):
    model, learnt = after_three_tasks(kind)
    oracle = build_base("llama")
    for one in learnt:
        alone = attach(build_base("llama"), kind, SETTINGS, seed=0)
        put(alone, one)
        with torch.no_grad():
            for name, layer in alone.base_model.model.named_modules():
                if hasattr(layer, "get_delta_weight"):
                    oracle.get_submodule(name).weight.add_(layer.get_delta_weight("default"))
    torch.testing.assert_close(model(tokens).logits, oracle(tokens).logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_does_the_same_as_one_adapter(
    kind, after_three_tasks, build_base, tokens, tmp_path
):
    model, _ = after_three_tasks(kind)
    save_combined(model, tmp_path)
    again = load_adapter(build_base("llama"), tmp_path).eval()
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=0, atol=2e-4)
    written = load_file(tmp_path / "adapter_model.safetensors")
    assert not [name for name in written if "earlier" in name]
    assert list(again.peft_config) == ["default"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_begins_where_the_earlier_ones_left_the_model(kind, after_three_tasks, tokens):
    model, learnt = after_three_tasks(kind)
    before = model(tokens).logits
    freeze_earlier(model, learnt)
    put(model, fresh_values(model, seed=9))
    torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=2e-4)


def test_fresh_values_are_lora_s_start_and_depend_on_the_seed(build_base):
    model = attach(build_base("llama"), "lora", SETTINGS, seed=0)
    first, second = fresh_values(model, 1), fresh_values(model, 2)
    for name, value in first.items():
        if ".lora_B." in name:
            assert not value.any()
            continue
        bound = value.shape[1] ** -0.5
        assert value.abs().max() <= bound
        assert value.std() == pytest.approx(bound / 3**0.5, rel=0.25)
        assert not torch.equal(value, second[name])


def test_only_a_peft_model_can_keep_earlier_adapters(build_base):
    with pytest.raises(TypeError, match="PeftModel only"):
        freeze_earlier(build_base("llama"), [])
