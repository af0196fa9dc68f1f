"""The duties of an adapter, for every kind in `ADAPTERS` on both layouts of a linear layer."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

import curlora
from curlora import (
    ADAPTERS,
    adapter_config,
    adapter_state,
    attach,
    export_lora,
    load_adapter,
    load_adapter_state,
    save_adapter,
)

ROOT = Path(curlora.__file__).parents[1]
FAMILIES = ("llama", "gpt2")
EVERY_CASE = [
    (kind, family)
    for kind, entry in ADAPTERS.items()
    for family in FAMILIES
    if entry.conv1d or family != "gpt2"
]
# Those that PEFT wraps around the base, and those that train something.
WRAPPED = [(kind, family) for kind, family in EVERY_CASE if ADAPTERS[kind].made_by]
TRAINED = [(kind, family) for kind, family in EVERY_CASE if kind != "head_only"]
every_case = pytest.mark.parametrize(("kind", "family"), EVERY_CASE)
every_wrapped = pytest.mark.parametrize(("kind", "family"), WRAPPED)
every_trained = pytest.mark.parametrize(("kind", "family"), TRAINED)
KEEPS_THE_BASE = [case for case in WRAPPED if ADAPTERS[case[0]].changes_base == "never"]
# PEFT does not know how to take these out of the weight again.
CANNOT_UNMERGE = {"osf"}


def assert_same(actual, expected):
    """Equal up to float32 rounding, relative to the largest logit."""
    assert (actual - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.fixture
def settings_of(targets):
    def settings(kind, family, **more):
        known = ADAPTERS[kind].settings
        wanted = {"r": 4, "alpha": 2.0, "target_modules": targets[family]} | more
        return {name: value for name, value in wanted.items() if name in known}

    return settings


@pytest.fixture
def adapted(build_base, settings_of, tokens):
    def build(kind, family, **more):
        text = [tokens] if kind == "corda" else None
        settings = settings_of(kind, family, **more)
        return attach(build_base(family), kind, settings, seed=5, text=text).eval()

    return build


def base_of(model):
    return model.base_model.model if isinstance(model, PeftModel) else model


def adapted_layers(model):
    return {
        name: layer
        for name, layer in base_of(model).named_modules()
        if isinstance(layer, BaseTunerLayer)
    }


def state_of(model):
    """What a checkpoint of the trained parameters and what belongs to them holds."""
    if isinstance(model, PeftModel):
        return adapter_state(model)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def load_state(model, state):
    if isinstance(model, PeftModel):
        load_adapter_state(model, state)
    else:
        model.load_state_dict(state)


@every_case
def test_output_is_unchanged_at_the_start(kind, family, adapted, build_base, tokens):
    actual, expected = adapted(kind, family)(tokens).logits, build_base(family)(tokens).logits
    # PiSSA and CorDA take the weight apart, OSF subtracts what it adds: equal up to rounding.
    exact = ADAPTERS[kind].changes_base == "never" and kind != "osf"
    assert torch.equal(actual, expected) if exact else assert_same(actual, expected) is None


@every_case
def test_the_counts_are_those_that_were_predicted(kind, family, adapted, settings_of, build_base):
    for r in (4, 5):  # 5 divides no layer
        model = adapted(kind, family, r=r)
        layers = adapted_layers(model)
        shapes = {
            name: tuple(layer.get_base_layer().weight.shape)[:: -1 if family == "gpt2" else 1]
            for name, layer in layers.items()
        }
        if kind == "full":
            shapes = {name: tuple(p.shape) for name, p in build_base(family).named_parameters()}
        trained = curlora.trainable_parameters(model)
        settings = settings_of(kind, family, r=r)
        actual = sum(parameter.numel() for parameter in trained.values())
        assert ADAPTERS[kind].trained(settings, shapes) == actual
        if not isinstance(model, PeftModel):
            assert ADAPTERS[kind].frozen(settings, shapes) == 0
            continue
        base = {id(t) for t in _tensors(model, base=True)}
        held = [t for t in _tensors(model, base=False) if id(t) not in base]
        initial = model._curlora_attached.initial or {}
        kept = sum(t.numel() for t in held) + sum(
            t.numel() for pair in initial.values() for t in pair
        )
        assert ADAPTERS[kind].frozen(settings, shapes) == kept - actual


def _tensors(model, *, base):
    """The floating-point tensors of a model: its base's own, or all but biases kept at rows."""
    tensors = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        of_base = "base_layer" in name or not any(
            mark in name for mark in ("cur_", "sec_", "lora_", "miss_", "osf_", "randlora_")
        )
        if of_base == base and tensor.is_floating_point() and "bias_at_rows" not in name:
            tensors[id(tensor)] = tensor
    return tensors.values()


def tensors_of(model):
    """Every parameter and buffer, once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@every_trained
def test_only_what_should_train_trains(kind, family, adapted, build_base, tokens):
    model = adapted(kind, family)
    optimiser = torch.optim.AdamW(curlora.trainable_parameters(model).values(), lr=0.03)
    before = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    losses = []
    for _ in range(4):
        loss = model(tokens, labels=tokens).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    trained = curlora.trainable_parameters(model).keys()
    moved = {name for name, t in tensors_of(model).items() if not torch.equal(t, before[name])}
    assert moved
    assert moved <= trained


@pytest.mark.parametrize(("kind", "family"), KEEPS_THE_BASE)
def test_the_base_comes_back_bit_identical(kind, family, adapted, build_base, tokens, train):
    model = adapted(kind, family)
    train(model)
    base = build_base(family)
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, base(tokens).logits)
    assert not torch.equal(model(tokens).logits, base(tokens).logits)
    kept, own = model.unload().state_dict(), base.state_dict()
    assert kept.keys() == own.keys()
    assert all(torch.equal(kept[name], own[name]) for name in own)


@pytest.mark.parametrize("kind", [k for k, v in ADAPTERS.items() if v.changes_base == "init"])
def test_a_changed_base_is_not_given_out(kind, adapted):
    model = adapted(kind, "llama")
    with pytest.raises(ValueError, match=r"refused.*load it on the untouched base"):
        model.unload()
    with (
        pytest.raises(ValueError, match=r"refused.*load it on the untouched base"),
        model.disable_adapter(),
    ):
        pass
    with pytest.raises(ValueError, match=r"refused.*load it on the untouched base"):
        model.delete_adapter("default")


@pytest.mark.parametrize("kind", [k for k, v in ADAPTERS.items() if not v.conv1d])
def test_a_conv1d_is_refused_where_it_cannot_be_adapted(kind, adapted):
    with pytest.raises(ValueError, match=r"cannot adapt `transformer\.h\.0\.attn\.c_attn`"):
        adapted(kind, "gpt2")


@every_trained
def test_every_trained_parameter_gets_a_gradient(kind, family, adapted, tokens):
    model = adapted(kind, family)
    parameters = curlora.trainable_parameters(model)
    assert parameters
    for _ in range(2):  # LoRA's A has none before the first step
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.sub_(0.1 * parameter.grad)
    without = [name for name, p in parameters.items() if not p.grad.abs().max() > 0]
    assert not without


def dense_weight(kind, layer):
    """The weight of an adapted layer by the definition of its kind, in the base's layout."""
    W = layer.get_base_layer().weight.detach()
    if kind == "miss":
        block = layer.miss_block["default"].detach()
        return W + block[torch.arange(W.shape[1]) % len(block)].t()
    delta = layer.get_delta_weight("default").detach()
    if kind != "dora":
        return W + delta
    along = 1 if isinstance(layer.get_base_layer(), torch.nn.Linear) else 0
    magnitude = layer.lora_magnitude_vector["default"].weight.detach().unsqueeze(along)
    return magnitude * (W + delta) / (W + delta).norm(dim=along, keepdim=True)


@every_wrapped
def test_forward_equals_a_float64_model_with_the_dense_weight(
    kind, family, adapted, build_base, tokens, train
):
    model = adapted(kind, family).double()
    train(model, scale=0.1)
    oracle = build_base(family).double()
    with torch.no_grad():
        for name, layer in adapted_layers(model).items():
            oracle.get_submodule(name).weight.copy_(dense_weight(kind, layer))
    expected = oracle(tokens).logits
    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=1e-9)
    assert (expected - build_base(family).double()(tokens).logits).abs().max() > 1e-3


@every_wrapped
def test_merged_equals_unmerged(kind, family, adapted, build_base, tokens, train):
    model = adapted(kind, family)
    train(model, scale=0.1)
    expected = model(tokens).logits
    model.merge_adapter()
    assert_same(model(tokens).logits, expected)
    if kind in CANNOT_UNMERGE:
        with pytest.raises(NotImplementedError):
            model.unmerge_adapter()
        return
    model.unmerge_adapter()
    assert_same(model(tokens).logits, expected)
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged) is type(build_base(family))
    assert_same(merged(tokens).logits, expected)


@every_wrapped
def test_an_export_is_exact_or_refused(kind, family, adapted, build_base, tokens, train, tmp_path):
    model = adapted(kind, family)
    train(model, scale=0.1)
    if kind in {"dora", "randlora", "secura"}:
        with pytest.raises(ValueError, match=r"not a product of low rank.*`merged`"):
            export_lora(model, tmp_path)
        return
    export_lora(model, tmp_path)
    exported = PeftModel.from_pretrained(build_base(family), tmp_path)
    assert_same(exported(tokens).logits, model(tokens).logits)


def learn(model, optimiser, task, start, steps, losses):
    for step in range(start, steps):
        loss = model(task, labels=task).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curlora.after_step(model, step + 1)
        losses.append(loss.item())


def tasks_in_order():
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 64, (2, 6), generator=generator) for _ in range(3)]


def optimiser_of(model):
    return torch.optim.AdamW(curlora.trainable_parameters(model).values(), lr=0.02)


@every_trained
def test_three_tasks_in_order_and_resumed_in_the_middle(kind, family, adapted):
    """The state in the middle of the second task, put into a fresh model, gives the same end."""
    more = {"merge": "M1", "merge_every": 2} if kind == "secura" else {}
    model = adapted(kind, family, **more)
    kept, ends = {}, []
    for number, task in enumerate(tasks_in_order()):
        optimiser, losses = optimiser_of(model), []
        learn(model, optimiser, task, 0, 2, losses)
        if number == 1:
            kept = {"model": state_of(model), "optimiser": copy.deepcopy(optimiser.state_dict())}
        learn(model, optimiser, task, 2, 4, losses)
        assert all(loss == loss and abs(loss) < 1e3 for loss in losses)
        assert losses[-1] < losses[0]
        ends.append(losses[-1])

    again, tail = adapted(kind, family, **more), []
    load_state(again, kept["model"])
    for number, task in enumerate(tasks_in_order()[1:]):
        optimiser, losses = optimiser_of(again), []
        if number == 0:
            optimiser.load_state_dict(kept["optimiser"])
        learn(again, optimiser, task, 2 if number == 0 else 0, 4, losses)
        tail.append(losses[-1])
    assert tail == ends[1:]
    final, expected = state_of(again), state_of(model)
    assert final.keys() == expected.keys()
    assert all(torch.equal(final[name], expected[name]) for name in expected)


def test_state_of_other_settings_is_refused(adapted):
    state = adapter_state(adapted("lora", "llama"))
    with pytest.raises(ValueError, match="settings it was saved with"):
        load_adapter_state(adapted("curlora", "llama"), state)


@every_case
def test_the_same_seeds_give_the_same_adapter(kind, family, adapted):
    first, second = state_of(adapted(kind, family)), state_of(adapted(kind, family))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@every_trained
def test_a_copy_is_independent(kind, family, adapted, tokens, train):
    model = adapted(kind, family)
    before = model(tokens).logits
    twin = copy.deepcopy(model)
    train(twin)
    assert torch.equal(model(tokens).logits, before)
    assert not torch.equal(twin(tokens).logits, before)


_BAD_SETTINGS = [
    ({"r": 0}, "`r` must be a whole number of at least 1, got 0"),
    ({"r": True}, "`r` must be a whole number of at least 1, got True"),
    ({"r": 2.0}, "`r` must be a whole number"),
    ({"alpha": float("nan")}, "`alpha` must be .*finite.*, got nan"),
    ({"alpha": "2"}, "`alpha` must be a .*number.*, got '2'"),
    ({"alpha": 0}, "`alpha` must be .*other than 0, got 0"),
    ({"dropout": 1.0}, "`dropout` must be a number of at least 0 and below 1, got 1.0"),
    ({"effective_rank": 1.0}, "`effective_rank` must be a share above 0 and below 1"),
    ({"target_modules": []}, "`target_modules` must be a list of module names"),
    ({"u": 0}, "`u` must be a whole number of at least 1, got 0"),
    ({"r": 4, "m": 4}, "`m` must be above `r` = 4, got 4"),
    ({"norm": "bound"}, "`norm` must be one of none, released, bounded, got 'bound'"),
    ({"merge": "M3"}, "`merge` must be one of none, M1, M2"),
    ({"init": "svd"}, "`init` must be one of"),
    ({"s": 0.0}, "`s` must be a number above 0"),
    ({"share": 1.5}, "`share` must be"),
    ({"decay": 0.0}, "`decay` must be a number above 0"),
    ({"merge_every": 0}, "`merge_every` must be a whole number"),
]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (kind, settings, message)
        for kind, entry in ADAPTERS.items()
        for settings, message in _BAD_SETTINGS
        if settings.keys() <= entry.settings.keys()
    ],
)
def test_bad_settings_are_refused_with_a_message(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        ADAPTERS[kind].build(settings)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_unknown_setting_is_refused(kind):
    hint = ".*mean 'target_modules'" if ADAPTERS[kind].settings else ".*Known: none"
    with pytest.raises(ValueError, match=f"has no setting 'target_module'{hint}"):
        ADAPTERS[kind].build({"target_module": ["q_proj"]})


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown adapter 'curlorra'.*mean 'curlora'"):
        adapter_config("curlorra", {})


@pytest.mark.parametrize("kind", ["full", "head_only"])
def test_what_has_no_config_says_so(kind):
    assert ADAPTERS[kind].build({}) is None
    with pytest.raises(ValueError, match=r"adds nothing to the base.*curlora\.attach"):
        adapter_config(kind, {})


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


def test_the_table_is_read_without_torch_or_peft():
    """A plan is made before anything heavy is imported."""
    code = (
        "import sys\n"
        "from curlora_kinds.adapters.table import ADAPTERS\n"
        "assert ADAPTERS['lora'].trained({'r': 2}, {'a': (3, 4)}) == 14\n"
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


_LOAD_IN_A_FRESH_PROCESS = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
import curlora

torch.set_num_threads(1)
cases = json.load(open(sys.argv[1]))
logits = {}
for name, case in cases.items():
    base = AutoModelForCausalLM.from_pretrained(case["base"]).eval()
    model = curlora.load_adapter(base, case["adapter"])
    assert not any(p.requires_grad for p in model.parameters())
    logits[name] = model(torch.tensor(case["tokens"])).logits.detach()
save_file(logits, sys.argv[2])
"""


def test_save_and_load_in_a_fresh_process(adapted, build_base, tokens, train, tmp_path):
    """One process for all cases: starting it costs more than the loading."""
    cases, expected = {}, {}
    for family in FAMILIES:
        build_base(family).save_pretrained(tmp_path / family)
    for kind, family in EVERY_CASE:
        model = adapted(kind, family)
        train(model, scale=0.1)
        name = f"{kind}-{family}"
        expected[name] = model(tokens).logits
        save_adapter(model, tmp_path / name)
        assert curlora.adapter_kind_of(tmp_path / name) == kind
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
        assert_same(loaded[name], logits)


@pytest.mark.parametrize(("kind", "family"), KEEPS_THE_BASE)
def test_a_loaded_adapter_can_be_disabled_and_saved_again(
    kind, family, adapted, build_base, tokens, train, tmp_path
):
    model = adapted(kind, family)
    train(model, scale=0.1)
    save_adapter(model, tmp_path / "first")
    loaded = load_adapter(build_base(family), tmp_path / "first")
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    with loaded.disable_adapter():
        assert torch.equal(loaded(tokens).logits, build_base(family)(tokens).logits)
    save_adapter(loaded, tmp_path / "second")
    again = load_adapter(build_base(family), tmp_path / "second")
    assert torch.equal(again(tokens).logits, model(tokens).logits)
