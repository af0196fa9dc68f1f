"""CURLoRA as a PEFT method: what a PEFT user expects of it, and what it must refuse."""

import copy
import json
import math

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors.torch import load_file
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    OPTConfig,
    OPTForCausalLM,
)
from transformers import MistralForCausalLM as Mistral
from transformers.pytorch_utils import Conv1D

import curlora
from curlora import CurloraConfig, SecuraConfig
from curlora.adapters.cur_layer import CurLayer
from curlora.adapters.curlora_layer import CurloraLinear
from curlora.targets import DEFAULT_TARGETS, default_targets, known_targets

QKV = ["q_proj", "k_proj", "v_proj"]


@pytest.fixture
def adapted(build_base, train):
    def build(family="llama", *, dtype=torch.float32, moved=True, **settings):
        settings = {"r": 4, "alpha": 2.0, "target_modules": QKV} | settings
        model = get_peft_model(build_base(family, dtype=dtype), CurloraConfig(**settings)).eval()
        if moved:
            train(model)
        return model

    return build


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, CurloraLinear)]


def assert_same(actual, expected, tolerance=1e-5):
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


# ---------------------------------------------------------------------- registration and config


def test_peft_knows_the_method():
    assert PeftType.CURLORA == "CURLORA"
    assert PeftType("CURLORA") is PeftType.CURLORA
    config = CurloraConfig()
    assert config.peft_type.value == "CURLORA"
    assert copy.deepcopy(config) == config


def test_the_config_survives_its_file(tmp_path):
    config = CurloraConfig(
        r=3,
        target_modules=["q_proj"],
        preset="author",
        rank_pattern={"k_proj": 2},
        alpha_pattern={"k_proj": 0.5},
        layers_to_transform=[1],
        layers_pattern="layers",
        allow_base_mismatch=True,
    )
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    config.allow_base_mismatch = False  # leave to load on another base is not saved
    assert loaded == config


def test_the_authors_preset_is_his_code():
    config = CurloraConfig(preset="author")
    assert config.eps == 1e-3
    assert config.with_replacement


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "`r` must be a whole number of at least 1, got 0"),
        ({"r": 1.5}, "`r` must be a whole number of at least 1, got 1.5"),
        ({"rank_pattern": {"q_proj": -1}}, "`r` must be a whole number of at least 1, got -1"),
        ({"alpha": math.inf}, "`alpha` must be finite, got inf"),
        ({"alpha": 0.0}, "`alpha` must be a number other than 0, got 0.0"),
        ({"alpha_pattern": {"q_proj": math.nan}}, "`alpha` must be finite, got nan"),
        ({"temperature": 0}, "`temperature` must be a number above 0, got 0"),
        ({"temperature": 0.01, "with_replacement": True}, "at least 0.05 when `with_replacement`"),
        ({"temperature": 0.01, "preset": "author"}, "at least 0.05 when `with_replacement`"),
        ({"preset": "paper"}, "`preset` must be one of author, got 'paper'"),
        ({"preset": "author", "eps": 0.5}, "means `eps` 0.001, got 0.5"),
        ({"selection": "random"}, "`selection` must be one of inverted, uniform, energy"),
        ({"eps": -1}, "`eps` must be a number of at least 0, got -1"),
        ({"bias": "all"}, "`bias` must be 'none', got 'all'"),
        ({"form": "dense"}, "`form` must be one of auto, explicit, output_reuse, input_side"),
        ({"layers_pattern": "layers"}, "`layers_to_transform` is not set"),
        (
            {"layers_to_transform": [0], "target_modules": "all-linear"},
            "`target_modules` is the one string 'all-linear'",
        ),
    ],
)
def test_bad_settings_are_refused_with_a_message(settings, message):
    with pytest.raises(ValueError, match=message):
        CurloraConfig(**settings)


def test_an_alpha_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="`alpha` must be a number other than 0, got '1'"):
        CurloraConfig(alpha="1")


def test_a_rank_larger_than_a_layer_names_the_layer(adapted):
    message = r"min\(d_in, d_out\) = 16 in `model.layers.0.self_attn.k_proj`, got 17"
    with pytest.raises(ValueError, match=message):
        adapted(r=17, target_modules=["k_proj"])


def test_a_layer_that_is_not_linear_is_refused(adapted):
    with pytest.raises(TypeError, match=r"`model.embed_tokens` is a Embedding"):
        adapted(target_modules=["embed_tokens"])


def test_a_weight_of_zeros_names_the_layer():
    base = nn.Sequential(nn.Linear(4, 4))
    nn.init.zeros_(base[0].weight)
    with pytest.raises(ValueError, match=r"In `0`: The weight has a squared norm of 0.0"):
        get_peft_model(base, CurloraConfig(r=2, target_modules=["0"]))


def test_a_quantised_weight_that_cannot_be_read_is_refused(monkeypatch):
    class Unreadable:
        layer_type, supports_merge, backend_name = "linear", False, "gptq"

        def get_base_weight(self, layer):
            raise TypeError("Dequantization is not supported for gptq layers.")

    monkeypatch.setattr(
        "curlora.adapters.cur_layer.resolve_quantization_backend", lambda *_, **__: Unreadable()
    )
    with pytest.raises(
        ValueError, match=r"quantised weight of `0` cannot be read: Dequant.*Use a float"
    ):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), CurloraConfig(r=2, target_modules=["0"]))


def test_a_partitioned_weight_is_refused():
    base = nn.Sequential(nn.Linear(4, 4))
    base[0].weight.data = torch.empty(0)
    with pytest.raises(
        ValueError, match=r"ZeRO-3 has partitioned it. Attach or load the adapter before"
    ):
        get_peft_model(base, CurloraConfig(r=2, target_modules=["0"]))


def test_a_sharded_weight_is_refused(monkeypatch):
    monkeypatch.setattr("curlora.adapters.cur_layer.DTensor", nn.Parameter)
    with pytest.raises(TypeError, match="Attach the adapter before sharding the model"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), CurloraConfig(r=2, target_modules=["0"]))


# ---------------------------------------------------------------------- size and dtype


def test_mistral_7b_trains_24576_numbers():
    """q, k and v of 32 layers, 16 x 16 each (Fawi 2024, section 4)."""
    with torch.device("meta"):
        base = Mistral(MistralConfig(vocab_size=32768, sliding_window=None))
    model = get_peft_model(base, CurloraConfig(r=16, target_modules=QKV))
    trainable, total = model.get_nb_trainable_parameters()
    assert trainable == 24_576
    assert total - trainable == 7_248_023_552
    assert len(layers_of(model)) == 96
    assert layers_of(model)[1].factors("default").C.shape == (1024, 16)
    assert layers_of(model)[1].factors("default").R.shape == (16, 4096)


@pytest.mark.parametrize(
    ("autocast_adapter_dtype", "expected"), [(True, "float32"), (False, "bfloat16")]
)
def test_the_core_is_float32_and_the_factors_keep_the_dtype_of_the_base(
    build_base, autocast_adapter_dtype, expected
):
    model = get_peft_model(
        build_base(dtype=torch.bfloat16),
        CurloraConfig(r=4, target_modules=QKV),
        autocast_adapter_dtype=autocast_adapter_dtype,
    )
    for layer in layers_of(model):
        factors = layer.factors("default")
        assert layer.cur_U["default"].dtype == getattr(torch, expected)
        assert factors.C.dtype == factors.R.dtype == torch.bfloat16
        assert torch.equal(factors.C, layer.base_layer.weight[:, factors.columns.long()])
        assert torch.equal(factors.R, layer.base_layer.weight[factors.rows.long()])


def test_a_cast_moves_the_factors_and_spares_indices_and_fingerprint(adapted, tokens):
    model = adapted(r=4)
    before = {k: v.clone() for k, v in model.state_dict().items() if v.dtype == torch.int32}
    model.to(torch.float16)
    factors = layers_of(model)[0].factors("default")
    assert factors.C.dtype == factors.R.dtype == torch.float16
    assert len(before) == 6 * 3
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert not factors.is_stale
    assert not factors.to("meta").is_stale  # nor does a move to another device


def test_nothing_of_the_factors_is_in_the_state_dict(adapted):
    names = {name.rpartition(".")[2] for name in adapted().state_dict() if "cur_" in name}
    assert names == {"default", "rows", "columns", "fingerprint_bits"}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma"])
def test_every_family_equals_its_dense_update(family, adapted, build_base, tokens):
    model = adapted(family, target_modules="all-linear").double()
    oracle = build_base(family).double()
    with torch.no_grad():
        for layer in layers_of(model):
            weight = oracle.get_submodule(layer.module_name).weight
            weight.add_(layer.get_delta_weight("default"))
    assert len(layers_of(model)) == 14
    torch.testing.assert_close(model(tokens).logits, oracle(tokens).logits, rtol=0, atol=1e-10)


def test_default_targets_are_q_k_and_v(build_base):
    model = get_peft_model(build_base("mistral"), CurloraConfig(r=2))
    assert {layer.module_name.rpartition(".")[2] for layer in layers_of(model)} == set(QKV)
    gpt2 = get_peft_model(build_base("gpt2"), CurloraConfig(r=2))
    assert {layer.module_name.rpartition(".")[2] for layer in layers_of(gpt2)} == {"c_attn"}


def test_families_without_a_default_of_ours_have_that_of_pefts_lora():
    config = OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32,
    )  # fmt: skip
    for adapter in (CurloraConfig(r=2), SecuraConfig(r=2)):
        model = get_peft_model(OPTForCausalLM(config), adapter)
        found = [name for name, m in model.named_modules() if isinstance(m, CurLayer)]
        assert {name.rpartition(".")[2] for name in found} == {"q_proj", "v_proj"}
    assert default_targets("opt") == ["q_proj", "v_proj"]
    theirs = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    assert set(known_targets()) == set(theirs) | set(DEFAULT_TARGETS)
    assert default_targets("gemma4") == theirs["gemma4"]


def test_layers_tell_their_widths_as_pefts_own_do(adapted):
    for family, name in (("llama", "down_proj"), ("gpt2", "c_fc")):
        for layer in layers_of(adapted(family, target_modules=[name])):
            factors = layer.factors("default")
            widths = (factors.R.shape[1], factors.C.shape[0])
            assert (layer.in_features, layer.out_features) == widths
            assert widths in {(48, 32), (32, 128)}


# ---------------------------------------------------------------------- selection in a model


def test_indices_do_not_depend_on_the_seed_of_the_run(adapted):
    torch.manual_seed(1)
    first = adapted(moved=False)
    torch.manual_seed(2)
    second = adapted(moved=False)
    other = adapted(moved=False, selection_seed=1)
    for a, b, c in zip(layers_of(first), layers_of(second), layers_of(other), strict=True):
        assert torch.equal(a.factors("default").rows, b.factors("default").rows)
        assert not torch.equal(a.factors("default").rows, c.factors("default").rows)


def test_ranks_share_columns_and_rows(adapted):
    small, large = adapted(moved=False, r=4), adapted(moved=False, r=8)
    for a, b in zip(layers_of(small), layers_of(large), strict=True):
        assert torch.equal(a.factors("default").C, b.factors("default").C[:, :4])
        assert torch.equal(a.factors("default").R, b.factors("default").R[:4])


def test_perplexity_grows_with_the_temperature(adapted):
    perplexities = [
        curlora.sampling_perplexity(adapted(moved=False, temperature=t))[
            "model.layers.0.self_attn.q_proj"
        ]
        for t in (0.05, 1.0, 1e6)
    ]
    columns, rows = zip(*perplexities, strict=True)
    assert columns[0] < 16 < columns[1] < columns[2] == pytest.approx(32, abs=1e-3)
    assert rows[0] < rows[1] < rows[2] == pytest.approx(32, abs=1e-3)


def test_rank_and_alpha_patterns_reach_their_layers(adapted, tokens):
    model = adapted(rank_pattern={"k_proj": 2}, alpha_pattern={"layers.1.self_attn.v_proj": 0.5})
    for layer in layers_of(model):
        rank = 2 if "k_proj" in layer.module_name else 4
        alpha = 0.5 if "1.self_attn.v_proj" in layer.module_name else 2.0
        assert layer.cur_U["default"].shape == (rank, rank)
        assert layer.cur_settings["default"].alpha == alpha


def test_layers_to_transform_and_exclusions(adapted):
    model = adapted(layers_to_transform=[1], exclude_modules=["k_proj"])
    assert [layer.module_name for layer in layers_of(model)] == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]


# ---------------------------------------------------------------------- save and load


def test_saved_are_core_indices_and_fingerprint_only(adapted, tmp_path):
    adapted().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    kinds = {}
    for name, tensor in saved.items():
        kinds.setdefault(name.partition("_proj.")[2], set()).add(
            (tuple(tensor.shape), tensor.dtype)
        )
    assert kinds == {
        "cur_U": {((4, 4), torch.float32)},
        "cur_factors.columns": {((4,), torch.int32)},
        "cur_factors.rows": {((4,), torch.int32)},
        "cur_factors.fingerprint_bits": {((2 + 64 + 8,), torch.int32)},
    }
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "CURLORA"


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_loading_reads_the_factors_of_the_saved_indices(
    adapted, build_base, tokens, tmp_path, low_cpu_mem_usage
):
    """The file's indices, not those its config would draw: C kept from construction is stale."""
    model = adapted(selection_seed=11)
    model.save_pretrained(tmp_path)
    config = CurloraConfig.from_pretrained(tmp_path)
    config.selection_seed = 12
    loaded = PeftModel.from_pretrained(
        build_base(), tmp_path, config=config, low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_transformers_own_loader_reads_the_factors_too(adapted, build_base, tokens, tmp_path):
    model = adapted(selection_seed=11)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"selection_seed": 12}))
    base = build_base()
    base.load_adapter(str(tmp_path))
    assert torch.equal(base(tokens).logits, model(tokens).logits)


def test_loaded_adapters_go_on_training(adapted, build_base, tokens, tmp_path):
    adapted().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_base(), tmp_path, is_trainable=True)
    loaded(tokens, labels=tokens).loss.backward()
    parameters = curlora.trainable_parameters(loaded)
    assert len(parameters) == 6
    assert all(p.grad.abs().max() > 0 for p in parameters.values())


def test_auto_class_loads_base_and_adapter(build_base, tokens, train, tmp_path):
    build_base().save_pretrained(tmp_path / "base")
    base = type(build_base()).from_pretrained(tmp_path / "base")
    model = get_peft_model(
        base, CurloraConfig(r=2, target_modules=QKV, task_type="CAUSAL_LM")
    ).eval()
    train(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_a_full_state_dict_with_another_base_reads_its_columns(adapted, build_base, tokens):
    """A model whose base weights arrive after the adapter."""
    model, other = adapted(), build_base(seed=9)
    state = {
        name: other.state_dict()[name.replace("base_model.model.", "").replace("base_layer.", "")]
        for name in model.state_dict()
        if "cur_" not in name
    }
    model.load_state_dict(state, strict=False)
    for layer in layers_of(model):
        factors = layer.factors("default")
        assert torch.equal(factors.C, layer.base_layer.weight[:, factors.columns.long()])
    twin = adapted(moved=False)
    twin.load_state_dict(model.state_dict())  # fingerprint and base agree again
    assert torch.equal(twin(tokens).logits, model(tokens).logits)


# ---------------------------------------------------------------------- is it the same base?


@pytest.fixture
def saved(adapted, tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    return model, tmp_path


def test_the_same_base_in_bfloat16_is_accepted(saved, build_base, tokens):
    model, folder = saved
    loaded = PeftModel.from_pretrained(build_base(dtype=torch.bfloat16), folder)
    expected = model(tokens).logits
    assert_same(loaded(tokens).logits.float(), expected, 0.1)


def test_an_adapter_made_on_bfloat16_loads_on_float32(adapted, build_base, tmp_path):
    adapted(dtype=torch.bfloat16).save_pretrained(tmp_path)
    PeftModel.from_pretrained(build_base(), tmp_path)


def test_another_base_is_refused(saved, build_base):
    message = (
        "made on an unnamed base, and the weight of `model.layers.0.self_attn.q_proj` differs .* "
        "by "
        r"\d+.*allowed: 1%"
    )
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(build_base(seed=1), saved[1])


def test_the_error_says_what_base_it_wants(build_base, tmp_path):
    base = build_base()
    base.name_or_path = "org/the-base"
    model = get_peft_model(base, CurloraConfig(r=2, target_modules=QKV))
    model.peft_config["default"].save_pretrained(tmp_path)
    state = curlora.adapter_state(model)
    other = get_peft_model(build_base(seed=1), CurloraConfig(r=2, target_modules=QKV))
    for layer in layers_of(other):
        settings = layer.cur_settings["default"]
        assert settings.base_name == "an unnamed base"
    assert CurloraConfig.from_pretrained(tmp_path).base_model_name_or_path == "org/the-base"
    with pytest.raises(ValueError, match="made on"):
        curlora.load_adapter_state(other, state)


def test_a_base_of_another_shape_is_refused(saved, build_base):
    folder = saved[1]
    base = build_base()
    for layer in base.model.layers:
        layer.self_attn.q_proj = nn.Linear(32, 4, bias=False)
    with pytest.raises(ValueError, match=r"of shape .4, 32., which has only"):
        PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("noise", [0.005])
def test_a_slightly_different_base_is_used_with_a_warning(saved, build_base, noise):
    base = build_base()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(1 + noise * torch.randn(parameter.shape).sign())
    with pytest.warns(UserWarning, match=r"differs from the one it was made on by 0\.\d+%"):
        PeftModel.from_pretrained(base, saved[1])


def test_a_mismatch_can_be_allowed(saved, build_base, tmp_path):
    config = CurloraConfig.from_pretrained(saved[1])
    config.allow_base_mismatch = True
    with pytest.warns(UserWarning, match="used because `allow_base_mismatch` is set"):
        loaded = PeftModel.from_pretrained(build_base(seed=1), saved[1], config=config)
    loaded.save_pretrained(tmp_path / "again")  # now an adapter of the new base
    PeftModel.from_pretrained(build_base(seed=1), tmp_path / "again")
    with pytest.raises(ValueError, match="differs"):
        PeftModel.from_pretrained(build_base(), tmp_path / "again")


def test_a_quantised_base_may_differ_by_its_rounding(saved, build_base, monkeypatch):
    class Coarse:
        """Stands for 4-bit storage: every weight is off by a tenth."""

        layer_type, supports_merge, backend_name = "linear", True, "four bits"

        def get_base_weight(self, layer):
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(layer.weight.shape, generator=generator) * self.rounding
            return layer.weight * (1 + noise)

        def maybe_clone_base_result(self, y):
            return y

    monkeypatch.setattr(
        "curlora.adapters.cur_layer.resolve_quantization_backend", lambda *_, **__: Coarse()
    )
    Coarse.rounding = 0.05
    PeftModel.from_pretrained(build_base(), saved[1])
    Coarse.rounding = 0.5
    with pytest.raises(ValueError, match="allowed: 15%"):
        PeftModel.from_pretrained(build_base(), saved[1])


# ---------------------------------------------------------------------- merging


@pytest.mark.parametrize("safe_merge", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging_is_exact_in_float32(adapted, targets, family, safe_merge):
    model = adapted(family, target_modules=targets[family])
    x = torch.randn(8, 32)
    layer = next(layer for layer in layers_of(model) if layer.factors("default").R.shape[1] == 32)
    expected = layer(x)
    model.merge_adapter(safe_merge=safe_merge)
    assert_same(layer(x), expected, 1e-6)
    assert layer.merged_adapters == ["default"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_unmerging_gives_the_original_bits_back_in_bfloat16(
    adapted, build_base, targets, tokens, family
):
    model = adapted(family, dtype=torch.bfloat16, target_modules=targets[family])
    expected = model(tokens).logits
    base = build_base(family, dtype=torch.bfloat16)
    for _ in range(3):
        model.merge_adapter()
        model.unmerge_adapter()
    for layer in layers_of(model):
        original = base.get_submodule(layer.module_name).weight
        assert torch.equal(layer.base_layer.weight, original)
    assert torch.equal(model(tokens).logits, expected)


def test_merging_two_adapters_one_after_the_other(adapted, train, tokens):
    """The second delta must come from the original columns, not from the merged ones."""
    model = adapted()
    model.add_adapter("other", CurloraConfig(r=3, target_modules=QKV, selection_seed=4))
    model.base_model.set_adapter(["default", "other"])
    train(model, seed=8)
    expected = model(tokens).logits
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging other"):
        model.merge_adapter(["other"])
    assert_same(model(tokens).logits, expected)
    model.unmerge_adapter()
    assert torch.equal(model(tokens).logits, expected)


def test_an_adapter_added_while_another_is_merged_reads_the_original_columns(adapted, tokens):
    model, plain = adapted(), adapted()
    config = {"r": 3, "target_modules": QKV, "selection_seed": 4}
    plain.add_adapter("other", CurloraConfig(**config))
    model.merge_adapter()
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.add_adapter("other", CurloraConfig(**config))
    for layer, reference in zip(layers_of(model), layers_of(plain), strict=True):
        assert torch.equal(layer.factors("other").C, reference.factors("other").C)
        assert torch.equal(layer.factors("other").rows, reference.factors("other").rows)


def test_disabling_while_merged_unmerges(adapted, build_base, tokens):
    model = adapted()
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, build_base()(tokens).logits)


def test_a_safe_merge_refuses_what_is_not_finite(adapted, build_base, tokens):
    model = adapted()
    with torch.no_grad():
        layers_of(model)[0].cur_U["default"][0, 0] = math.inf
    # The sentence is PEFT's own, on which its callers rely.
    expected = r"NaNs detected in the merged weights. The adapter default seems to be broken"
    with pytest.raises(ValueError, match=expected):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(
        layers_of(model)[0].base_layer.weight,
        build_base().model.layers[0].self_attn.q_proj.weight,
    )


def test_merging_into_a_tied_output_layer_leaves_the_embedding_alone(
    adapted, build_base, tokens, tmp_path
):
    def tied(model):
        return model.get_input_embeddings().weight is model.get_output_embeddings().weight

    with pytest.warns(UserWarning, match="a tied layer is part of the adapter"):  # PEFT's own
        model = adapted("gemma", target_modules=["lm_head", "q_proj"])
    base = build_base("gemma")
    assert tied(base)
    expected = model(tokens).logits
    assert (expected - base(tokens).logits).abs().max() > 0.01
    for _ in range(2):
        model.merge_adapter()
        assert_same(model(tokens).logits, expected, 1e-5)
        embedding = model.get_base_model().get_input_embeddings().weight
        assert torch.equal(embedding, base.get_input_embeddings().weight)
        model.unmerge_adapter()
        inner = model.get_base_model()
        assert inner.lm_head.base_layer.weight is inner.get_input_embeddings().weight
        with model.disable_adapter():
            assert torch.equal(model(tokens).logits, base(tokens).logits)
    with pytest.warns(UserWarning, match="no longer tied after merging"):
        merged = model.merge_and_unload()
    assert_same(merged(tokens).logits, expected, 1e-5)
    merged.save_pretrained(tmp_path)
    assert_same(type(merged).from_pretrained(tmp_path)(tokens).logits, expected, 1e-5)


def test_a_base_that_cannot_be_written_is_not_merged_into(adapted, monkeypatch, tmp_path):
    class ReadOnly:
        layer_type, supports_merge, backend_name = "linear", False, "some format"

        def get_base_weight(self, layer):
            return layer.weight.detach()

    monkeypatch.setattr(
        "curlora.adapters.cur_layer.resolve_quantization_backend", lambda *_, **__: ReadOnly()
    )
    model = adapted()
    with pytest.raises(ValueError, match="quantised by some format, which cannot be written to"):
        model.merge_adapter()
    assert curlora.export_lora(model, tmp_path).exists()


def test_unmerging_twice_warns(adapted):
    model = adapted()
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


# ---------------------------------------------------------------------- several adapters


def test_switching_disabling_and_deleting_adapters(adapted, build_base, train, tokens):
    model = adapted()
    first, trainable = model(tokens).logits, set(curlora.trainable_parameters(model))
    model.add_adapter("other", CurloraConfig(r=2, target_modules=["q_proj"], temperature=0.5))
    assert set(curlora.trainable_parameters(model)) == trainable
    assert torch.equal(model(tokens).logits, first)
    model.set_adapter("other")
    assert set(curlora.trainable_parameters(model)) == {  # of "other" alone
        f"base_model.model.model.layers.{i}.self_attn.q_proj.cur_U.other" for i in (0, 1)
    }
    assert torch.equal(model(tokens).logits, build_base()(tokens).logits)
    train(model)
    second = model(tokens).logits
    model.set_adapter("default")
    assert torch.equal(model(tokens).logits, first)
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, build_base()(tokens).logits)
    model.set_adapter("other")
    model.delete_adapter("default")
    assert torch.equal(model(tokens).logits, second)
    assert not any("default" in name for name, _ in model.named_parameters())
    assert not any("default" in name for name, _ in model.named_buffers())


def test_two_active_adapters_add_up(adapted, build_base, train, tokens):
    model = adapted(target_modules=["q_proj"]).double()
    model.add_adapter("other", CurloraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "other"])
    train(model, seed=6)
    oracle = build_base().double()
    with torch.no_grad():
        for layer in layers_of(model):
            weight = oracle.get_submodule(layer.module_name).weight
            for name in ("default", "other"):
                weight.add_(layer.get_delta_weight(name))
    torch.testing.assert_close(model(tokens).logits, oracle(tokens).logits, rtol=0, atol=1e-10)


def test_each_adapter_is_saved_and_loaded_alone(adapted, build_base, train, tokens, tmp_path):
    model = adapted()
    model.add_adapter("other", CurloraConfig(r=2, target_modules=QKV, selection_seed=7))
    model.set_adapter("other")
    train(model)
    expected = model(tokens).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_base(), tmp_path)  # "default" lies at the top
    loaded.load_adapter(tmp_path / "other", adapter_name="second")
    loaded.set_adapter("second")
    assert torch.equal(loaded(tokens).logits, expected)


def test_on_top_of_a_lora_adapter(build_base, train, tokens):
    """The output of the layer below is not x W' + bias, so nothing may be read off it."""
    base = get_peft_model(build_base(), LoraConfig(r=2, target_modules=QKV)).eval()
    train(base)
    inner = base.base_model.model
    expected = inner(tokens).logits
    with (
        pytest.warns(UserWarning, match="second time"),
        pytest.warns(UserWarning, match="Already found a `peft_config`"),
    ):
        model = get_peft_model(
            inner, CurloraConfig(r=4, target_modules=[f"self_attn.{n}" for n in QKV])
        )
    layer = layers_of(model)[0]
    assert not layer._base_is_exact()
    assert torch.equal(model(tokens).logits, expected)


@pytest.mark.parametrize("config", [CurloraConfig, SecuraConfig])
def test_a_second_adapter_finds_all_linear_layers_as_well(config, build_base):
    first, second = (config(r=4, target_modules="all-linear") for _ in range(2))
    model = get_peft_model(build_base(), first)
    model.add_adapter("second", second)
    assert len(first.target_modules) == 2 * 7
    assert second.target_modules == first.target_modules


def test_an_adapter_for_each_row_is_refused(adapted, tokens):
    with pytest.raises(ValueError, match="cannot give each row of a batch its own adapter"):
        adapted()(tokens, adapter_names=["default", "__base__"])


# ---------------------------------------------------------------------- training


def test_modules_to_save_train_and_travel_with_the_adapter(train, tmp_path):
    def classifier():
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        config = LlamaConfig(vocab_size=64, pad_token_id=0, num_labels=3, **shape, **heads)
        return LlamaForSequenceClassification(config).eval()

    ids = torch.randint(1, 64, (2, 5))
    model = get_peft_model(
        classifier(), CurloraConfig(r=2, target_modules=QKV, task_type="SEQ_CLS")
    ).eval()
    train(model)
    assert sum("score" in name for name in curlora.trainable_parameters(model)) == 1
    expected = model(ids).logits
    model.save_pretrained(tmp_path / "cur")
    loaded = PeftModel.from_pretrained(classifier(), tmp_path / "cur")
    assert torch.equal(loaded(ids).logits, expected)

    curlora.export_lora(model, tmp_path / "lora")
    exported = PeftModel.from_pretrained(classifier(), tmp_path / "lora")
    assert_same(exported(ids).logits, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(adapted, tokens, use_reentrant):
    def gradients(model):
        model.train()
        model(tokens, labels=tokens).loss.backward()
        return {name: p.grad for name, p in curlora.trainable_parameters(model).items()}

    plain, model = adapted(), adapted()
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    expected = gradients(plain)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_autocast_trains_in_bfloat16(adapted, tokens, targets, family):
    model = adapted(family, target_modules=targets[family])
    exact = model(tokens, labels=tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(tokens, labels=tokens)
    assert rounded.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)
    rounded.loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in curlora.trainable_parameters(model).values())


def test_low_cpu_mem_usage_leaves_the_core_on_the_meta_device(build_base):
    config = CurloraConfig(r=2, target_modules=QKV)
    model = get_peft_model(build_base(), config, low_cpu_mem_usage=True)
    assert all(layer.cur_U["default"].is_meta for layer in layers_of(model))


def test_factors_outlive_a_copy_and_a_pickle(adapted, tokens, tmp_path):
    model = adapted()
    curlora.load_adapter_state(model, curlora.adapter_state(model))  # written to in place
    torch.save(model, tmp_path / "model.pt")
    pickled = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (pickled, copy.deepcopy(model)):
        assert not any(layer.factors("default").is_stale for layer in layers_of(other))
        assert torch.equal(other(tokens).logits, model(tokens).logits)
    with torch.no_grad():
        layers_of(model)[0].factors("default").rows.add_(0)
    stale = [layer.factors("default").is_stale for layer in layers_of(copy.deepcopy(model))]
    assert stale == [True] + [False] * 5


def test_a_square_conv1d_is_not_transposed_by_accident():
    base = nn.Sequential(Conv1D(6, 6))
    x = torch.randn(4, 6)
    model = get_peft_model(base, CurloraConfig(r=2, target_modules=["0"]))
    layer = layers_of(model)[0]
    with torch.no_grad():
        layer.cur_U["default"].normal_()
    W = layer.base_layer.weight.t()
    factors = layer.factors("default")
    columns, rows = factors.columns.long(), factors.rows.long()
    update = W[:, columns] @ layer.cur_U["default"] @ W[rows]
    expected = x @ (W + update).t() + layer.base_layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_peft_can_convert_it_to_lora_by_decomposition(adapted):
    assert adapted().base_model.supports_lora_conversion()
