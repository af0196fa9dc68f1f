"""Attaching, saving and loading: what is refused, and which file decides."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

import curlora
from curlora import ADAPTERS, adapter_kind_of, attach, load_adapter, save_adapter

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def test_the_same_seed_gives_the_same_adapter_and_another_another(build_base):
    first, second, third = (
        curlora.adapter_state(attach(build_base(), "lora", LORA, seed=seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_corda_follows_the_text(build_base, tokens):
    def start(text):
        return curlora.adapter_state(attach(build_base(), "corda", LORA, seed=0, text=text))

    first, again, other = start([tokens]), start([tokens[:1], tokens[1:]]), start([tokens + 1 & 63])
    assert all(torch.equal(first[name], again[name]) for name in first)  # how it is batched is not
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_measuring_leaves_nothing_on_the_base_and_keeps_its_mode(build_base, tokens):
    base = build_base().train()
    model = attach(base, "corda", LORA, seed=0, text=[tokens])
    assert model.base_model.model.training
    left = {"eigens", "covariance_matrix", "sample_count", "corda_method", "rank"}
    assert not [n for n, m in base.named_modules() if left & vars(m).keys()]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("corda", None, "needs `text`"),
        ("corda", [], "`text` is empty"),
        ("lora", [torch.ones(1, 4).long()], "reads no `text`"),
    ],
)
def test_text_is_needed_by_corda_and_by_nothing_else(kind, text, message, build_base):
    with pytest.raises(ValueError, match=message):
        attach(build_base(), kind, LORA, seed=0, text=text)


@pytest.mark.parametrize("kind", [kind for kind, entry in ADAPTERS.items() if entry.reads_weight])
def test_a_quantised_base_is_refused_where_its_weights_are_needed(kind, build_base, tokens):
    base = build_base()
    base.is_quantized = True
    text = [tokens] if kind == "corda" else None
    with pytest.raises(ValueError, match=r"the base is quantised.*choose one of: curlora"):
        attach(base, kind, {}, seed=0, text=text)


def test_a_base_that_has_an_adapter_is_refused(build_base):
    for kind in ("lora", "head_only"):
        model = attach(build_base(), kind, LORA if kind == "lora" else {}, seed=0)
        with pytest.raises(ValueError, match="already has an adapter"):
            attach(model, "lora", LORA, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 4, "target_modules": ["q_prj"]}, r"name no layer of the base.*q_proj"),
        ({"r": 17, "target_modules": ["k_proj"]}, r"at most min\(d_in, d_out\) = 16 in"),
    ],
)
def test_layers_that_do_not_fit_are_refused(settings, message, build_base):
    with pytest.raises(ValueError, match=message):
        attach(build_base(), "pissa", settings, seed=0)


def test_too_much_kept_by_osf_is_refused(build_base):
    with pytest.raises(
        ValueError, match=r"k_proj` .* `effective_rank` .* = 16, got 16: nothing would"
    ):
        attach(build_base(), "osf", {"effective_rank": 16, "target_modules": ["k_proj"]}, seed=0)


def test_all_linear_layers_but_the_head(build_base):
    model = attach(build_base(), "pissa", {"r": 2, "target_modules": "all-linear"}, seed=0)
    initial = model._curlora_attached.initial
    assert len(initial) == 2 * 7
    assert "lm_head" not in initial


def test_pissa_is_stored_as_lora_of_twice_the_rank_which_peft_alone_loads(
    build_base, train, tokens, tmp_path
):
    model = attach(build_base(), "pissa", LORA, seed=0).eval()
    train(model, scale=0.1)
    save_adapter(model, tmp_path)
    marker = json.loads((tmp_path / "adapter.json").read_text())
    assert (marker["kind"], marker["stored"]) == ("pissa", "lora")
    loaded = PeftModel.from_pretrained(build_base(), tmp_path)
    config = loaded.peft_config["default"]
    assert isinstance(config, LoraConfig)
    assert config.r == 8
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=1e-4)


def test_full_and_head_only_are_stored_as_what_they_are(build_base, train, tokens, tmp_path):
    whole, frozen = (attach(build_base(), kind, {}, seed=0) for kind in ("full", "head_only"))
    assert all(parameter.requires_grad for parameter in whole.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    train(whole, scale=0.1)
    save_adapter(whole, tmp_path / "full")
    save_adapter(frozen, tmp_path / "head_only")
    assert [path.name for path in (tmp_path / "head_only").iterdir()] == ["adapter.json"]
    base = build_base()
    loaded = load_adapter(base, tmp_path / "full")
    assert torch.equal(loaded(tokens).logits, whole(tokens).logits)
    assert torch.equal(base(tokens).logits, build_base()(tokens).logits)
    assert load_adapter(base, tmp_path / "head_only") is base


def test_what_peft_wrote_is_recognised(build_base, tokens, tmp_path):
    for kind, options in {
        "lora": {},
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "mica": {"init_lora_weights": "mica"},
    }.items():
        config = LoraConfig(r=4, target_modules=["q_proj"], **options)
        model = get_peft_model(build_base(), config)
        model.save_pretrained(tmp_path / kind)
        assert adapter_kind_of(tmp_path / kind) == kind
        save_adapter(model, tmp_path / "ours")
        assert adapter_kind_of(tmp_path / "ours") == kind
    loaded = load_adapter(build_base(), tmp_path / "lora")
    assert torch.equal(loaded(tokens).logits, build_base()(tokens).logits)


def test_what_cannot_be_told_is_refused(build_base, tmp_path):
    with pytest.raises(FileNotFoundError, match="No adapter in"):
        load_adapter(build_base(), tmp_path)
    with pytest.raises(TypeError, match=r"Nothing says what was trained of this LlamaForCausalLM"):
        save_adapter(build_base(), tmp_path)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    model = get_peft_model(build_base(), config)
    for write in (save_adapter, curlora.export_lora):
        with pytest.raises(ValueError, match="how it started was not kept"):
            write(model, tmp_path)
    (tmp_path / "adapter.json").write_text('{"kind": "lora", "stored": "zip", "settings": {}}')
    with pytest.raises(ValueError, match="stored as 'zip'"):
        load_adapter(build_base(), tmp_path)


def test_a_moved_adapter_keeps_its_start(build_base, train, tokens, tmp_path):
    """The start that was subtracted does not follow the trained factors."""
    model = attach(build_base(), "pissa", LORA, seed=0)
    before = {name: B.clone() for name, (B, _) in model._curlora_attached.initial.items()}
    train(model)
    after = model._curlora_attached.initial
    assert all(torch.equal(after[name][0], B) for name, B in before.items())
    save_adapter(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(before))
    B = tensors[f"base_model.model.{name}.lora_B.weight"]
    assert torch.equal(B[:, 4:], -before[name])
