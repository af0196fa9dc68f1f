"""The duties of an adapter, for every kind in `ADAPTERS` on both layouts of a linear layer."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

import curlora
from curlora import ADAPTERS, adapter_config, adapter_state, load_adapter_state

# PEFT says so when it transposes LoRA for a Conv1D.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")

ROOT = Path(curlora.__file__).parents[1]
FAMILIES = ("llama", "gpt2")
EVERY_CASE = [(kind, family) for kind in ADAPTERS for family in FAMILIES]
every_case = pytest.mark.parametrize(("kind", "family"), EVERY_CASE)


def assert_same(actual, expected):
    """Equal up to float32 rounding, relative to the largest logit."""
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture
def adapted(build_base, targets):
    def build(kind, family, **settings):
        settings = {"r": 4, "alpha": 2.0, "target_modules": targets[family]} | settings
        torch.manual_seed(5)
        return get_peft_model(build_base(family), adapter_config(kind, settings)).eval()

    return build


@every_case
def test_output_is_unchanged_at_the_start(kind, family, adapted, build_base, tokens):
    model = adapted(kind, family)
    torch.testing.assert_close(
        model(tokens).logits, build_base(family)(tokens).logits, rtol=0, atol=0
    )


@every_case
def test_only_the_adapter_trains_and_the_base_stays_bit_identical(
    kind, family, adapted, build_base, tokens
):
    model = adapted(kind, family)
    optimiser = torch.optim.AdamW(curlora.trainable_parameters(model).values(), lr=0.1)
    losses = []
    for _ in range(4):
        loss = model(tokens, labels=tokens).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    assert losses[-1] < losses[0]
    base = build_base(family).state_dict()
    kept = model.unload().state_dict()
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], base[name]) for name in base)


@every_case
def test_every_adapter_parameter_gets_a_gradient(kind, family, adapted, tokens):
    model = adapted(kind, family)
    parameters = curlora.trainable_parameters(model)
    assert parameters
    for _ in range(2):  # LoRA's A has none before the first step
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.sub_(parameter.grad)
    without = [name for name, p in parameters.items() if not p.grad.abs().max() > 0]
    assert not without


@every_case
def test_forward_equals_a_float64_model_with_the_dense_update(
    kind, family, adapted, build_base, tokens, train
):
    model = adapted(kind, family).double()
    train(model)
    oracle = build_base(family).double()
    with torch.no_grad():
        for name, layer in model.base_model.model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                oracle.get_submodule(name).weight.add_(layer.get_delta_weight("default"))
    expected = oracle(tokens).logits

    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=1e-10)
    assert (expected - build_base(family).double()(tokens).logits).abs().max() > 1e-3


@every_case
def test_merged_equals_unmerged_and_unmerging_restores(
    kind, family, adapted, build_base, tokens, train
):
    model = adapted(kind, family)
    train(model)
    expected = model(tokens).logits
    model.merge_adapter()
    assert_same(model(tokens).logits, expected)
    model.unmerge_adapter()
    assert_same(model(tokens).logits, expected)
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged) is type(build_base(family))
    assert_same(merged(tokens).logits, expected)


@every_case
def test_disabled_is_the_base(kind, family, adapted, build_base, tokens, train):
    model = adapted(kind, family)
    train(model)
    with model.disable_adapter():
        disabled = model(tokens).logits
    assert torch.equal(disabled, build_base(family)(tokens).logits)
    assert not torch.equal(disabled, model(tokens).logits)


@every_case
def test_state_moves_to_another_instance(kind, family, adapted, tokens, train):
    model, other = adapted(kind, family), adapted(kind, family)
    train(model)
    load_adapter_state(other, adapter_state(model))
    assert torch.equal(other(tokens).logits, model(tokens).logits)


def test_state_of_other_settings_is_refused(adapted):
    state = adapter_state(adapted("lora", "llama"))
    with pytest.raises(ValueError, match="settings it was saved with"):
        load_adapter_state(adapted("curlora", "llama"), state)


@every_case
def test_the_same_seeds_give_the_same_adapter(kind, family, adapted):
    first, second = adapter_state(adapted(kind, family)), adapter_state(adapted(kind, family))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@every_case
def test_a_copy_is_independent(kind, family, adapted, tokens, train):
    model = adapted(kind, family)
    before = model(tokens).logits
    twin = copy.deepcopy(model)
    train(twin)
    assert torch.equal(model(tokens).logits, before)
    assert not torch.equal(twin(tokens).logits, before)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"r": 0}, "`r` must be a whole number of at least 1, got 0"),
        ({"r": True}, "`r` must be a whole number of at least 1, got True"),
        ({"r": 2.0}, "`r` must be a whole number"),
        ({"alpha": float("nan")}, "`alpha` must be .*finite.*, got nan"),
        ({"alpha": "2"}, "`alpha` must be a .*number, got '2'"),
        ({"target_module": ["q_proj"]}, "no setting 'target_module'.*mean 'target_modules'"),
    ],
)
def test_bad_settings_are_refused_with_a_message(kind, setting, message):
    with pytest.raises(ValueError, match=message):
        adapter_config(kind, setting)


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown adapter 'curlorra'.*mean 'curlora'"):
        adapter_config("curlorra", {})


def test_lora_settings_arrive_under_their_names_in_peft():
    config = adapter_config("lora", {"r": 3, "alpha": 7, "dropout": 0.2, "target_modules": ["a"]})
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 7, 0.2)
    assert config.target_modules == {"a"}


def test_curlora_settings_arrive_under_their_names():
    settings = {
        "r": 3,
        "alpha": 0.5,
        "temperature": 2.0,
        "target_modules": ["a"],
        "selection_seed": 4,
        "selection": "energy",
        "eps": 0.1,
        "with_replacement": True,
    }
    config = adapter_config("curlora", settings)
    assert {name: getattr(config, name) for name in settings} == settings | {
        "target_modules": {"a"}
    }
    assert adapter_config("curlora", {"preset": "author"}).eps == 1e-3


_LOAD_IN_A_FRESH_PROCESS = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
import curlora

torch.set_num_threads(1)
cases = json.load(open(sys.argv[1]))
logits = {}
for name, case in cases.items():
    base = AutoModelForCausalLM.from_pretrained(case["base"])
    model = PeftModel.from_pretrained(base, case["adapter"])
    logits[name] = model(torch.tensor(case["tokens"])).logits.detach()
save_file(logits, sys.argv[2])
"""


def test_save_and_load_in_a_fresh_process(adapted, build_base, tokens, train, tmp_path):
    """One process for all cases: starting it costs more than the loading."""
    cases, expected = {}, {}
    for kind, family in EVERY_CASE:
        model = adapted(kind, family)
        train(model)
        name = f"{kind}-{family}"
        expected[name] = model(tokens).logits
        model.save_pretrained(tmp_path / name)
        build_base(family).save_pretrained(tmp_path / family)
        cases[name] = {
            "base": str(tmp_path / family),
            "adapter": str(tmp_path / name),
            "tokens": tokens.tolist(),
        }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    subprocess.run(
        [
            sys.executable,
            "-c",
            _LOAD_IN_A_FRESH_PROCESS,
            str(tmp_path / "cases.json"),
            str(tmp_path / "logits.safetensors"),
        ],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    loaded = load_file(tmp_path / "logits.safetensors")
    assert loaded.keys() == expected.keys()
    for name, logits in expected.items():
        torch.testing.assert_close(loaded[name], logits, rtol=0, atol=1e-6)


@every_case
def test_save_and_load_under_another_name(
    kind, family, adapted, build_base, tokens, train, tmp_path
):
    model = adapted(kind, family)
    train(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_base(family), tmp_path, adapter_name="other")
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
