"""CURLoRA and LoRA on a frozen base of 4 or 8 bits: NF4, LLM.int8 and torchao's int8."""

import subprocess
import sys

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from curlora import CurloraConfig
from curlora.adapters.attach import attach
from curlora.adapters.curlora_layer import curlora_layers
from curlora.peft_bridge import keep_as_quantised
from curlora.targets import QUANTISATION_BITS
from curlora_kinds.adapters.table import ADAPTERS, quantisation_refuses
from orchestrator.base.errors import ModelError
from orchestrator.base.loading import load_base, partitioned
from orchestrator.base.number_formats import memory_footprint
from orchestrator.spec.sections import ModelSpec

FORMS = list(QUANTISATION_BITS)
TARGETS = ["q_proj", "down_proj"]
SETTINGS = {"r": 4, "target_modules": TARGETS}
TOKENS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama whose widths are multiples of NF4's blocks of 64."""
    where = tmp_path_factory.mktemp("float-base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(where)
    return where


def base(folder, form, precision="fp32"):
    return load_base(ModelSpec(name=str(folder), quantization=form), precision)


def curlora(folder, form, **settings):
    return attach(base(folder, form), "curlora", SETTINGS | settings, seed=0)


def spread(model):
    """Moves `U` away from zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.float()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["curlora", "lora"])
def test_an_adapter_starts_at_the_quantised_base_and_learns(folder, form, kind):
    for precision in ("fp32", "bf16"):
        plain = base(folder, form, precision)
        before = logits(plain)
        model = attach(plain, kind, SETTINGS, seed=0)
        assert torch.equal(logits(model), before)
        frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        losses = []
        for _ in range(4):
            loss = model(input_ids=TOKENS, labels=TOKENS).loss
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert losses[-1] < losses[0]
        for name, p in model.named_parameters():
            if name in frozen:
                assert torch.equal(dequantised(p), dequantised(frozen[name])), name


def dequantised(tensor):
    return tensor.dequantize() if hasattr(tensor, "__tensor_flatten__") else tensor


@pytest.mark.parametrize("form", FORMS)
def test_columns_and_rows_are_those_of_the_dequantised_weight(folder, form):
    model = curlora(folder, form)
    layers = curlora_layers(model, "default")
    assert len(layers) == 4
    for name, layer in layers.items():
        W = layer.get_base_weight()
        rule = model.peft_config["default"].selection_rule()
        expected = rule.select(W, 4, name=name)
        factors = layer.factors("default")
        assert factors.columns.tolist() == expected.columns.tolist()
        assert factors.rows.tolist() == expected.rows.tolist()
        assert torch.equal(factors.C, W[:, expected.columns])
        assert torch.equal(factors.R, W[expected.rows])


@pytest.mark.parametrize("form", FORMS)
def test_forward_and_gradient_are_those_of_the_dense_sum(folder, form):
    """y = x (W + alpha C U R)' with the dequantised W; LLM.int8 rounds its input in evaluation."""
    model = spread(curlora(folder, form, alpha=2.0)).train()
    for layer in curlora_layers(model, "default").values():
        W, factors = layer.get_base_weight().double(), layer.factors("default")
        U = layer.cur_U["default"]
        x = torch.randn(3, W.shape[1], requires_grad=True)
        weights = torch.randn(3, W.shape[0])
        dense_U = U.detach().double().requires_grad_()
        dense_x = x.detach().double().requires_grad_()
        delta = 2.0 * factors.C.double() @ dense_U @ factors.R.double()
        expected = dense_x @ (W + delta).t()
        got = layer(x)
        scale = float(expected.detach().abs().max())
        # In training LLM.int8 computes on a CPU with the dequantised weight, too.
        assert torch.allclose(got.double(), expected, atol=1e-3 * scale)
        (expected * weights.double()).sum().backward()
        (got * weights).sum().backward()
        for mine, dense in ((U.grad, dense_U.grad), (x.grad, dense_x.grad)):
            assert torch.allclose(mine.double(), dense, atol=2e-3 * float(dense.abs().max()))
        U.grad = None
        model.eval()
        with torch.no_grad():
            evaluated = layer(x)
        model.train()
        rounding = 0.03 if form == "int8" else 1e-3
        assert torch.allclose(evaluated.double(), expected, atol=rounding * scale)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_pass_quantised_layers_after_an_evaluation(folder, form):
    """The lowest layer's gradient comes through every layer above it."""
    model = spread(curlora(folder, form))

    def gradients():
        model.train()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        found = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        model.zero_grad()
        return found

    before = gradients()
    model.eval()
    logits(model)
    for one, two in zip(before, gradients(), strict=True):
        assert float(one.abs().max()) > 0
        assert torch.equal(one, two)


def test_a_weight_that_was_packed_for_inference_is_refused(folder):
    layer = base(folder, "nf4").model.layers[0].self_attn.q_proj
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match=r"packed the 4-bit weights .* Load the model again"):
        keep_as_quantised(layer)


@pytest.mark.parametrize("form", FORMS)
def test_only_the_explicit_form_is_used(folder, form):
    model = curlora(folder, form)
    for layer in curlora_layers(model, "default").values():
        assert layer._form(["default"], torch.zeros(1, 1)) == "explicit"
    with pytest.raises(ValueError, match="needs a plain linear layer"):
        get_peft_model(
            base(folder, form),
            CurloraConfig(r=4, target_modules=TARGETS, form="output_reuse"),
        )


@pytest.mark.parametrize("form", FORMS)
def test_merging_quantises_again_and_unmerging_comes_back(folder, form):
    """Merging rounds once more, by no more than the rounding of the base itself."""
    model = spread(curlora(folder, form))
    unmerged = logits(model)
    layer = next(iter(curlora_layers(model, "default").values()))
    W = layer.get_base_weight().clone()
    wanted = W + layer.get_delta_weight("default")
    model.merge_adapter()
    gap = float((layer.get_base_weight() - wanted).norm() / wanted.norm())
    assert gap < (0.12 if form == "nf4" else 0.01)
    model.unmerge_adapter()
    # torchao divides by 127.5, so that its own values are not quantised to themselves.
    assert torch.allclose(layer.get_base_weight(), W, atol=0.01 * float(W.abs().max()))
    assert torch.allclose(logits(model), unmerged, atol=0.1 * float(unmerged.abs().max()))


_LOAD = """
import json, sys
import torch
from pathlib import Path
from peft import PeftModel
from safetensors.torch import save_file
import curlora
from orchestrator.base.loading import load_base
from orchestrator.spec.sections import ModelSpec
torch.set_num_threads(1)
folder, out, tokens, *forms = sys.argv[1:]
logits = {}
for form in forms:
    base = load_base(ModelSpec(name=folder, quantization=form), "fp32")
    model = PeftModel.from_pretrained(base, Path(out) / form).eval()
    with torch.no_grad():
        logits[form] = model(input_ids=torch.tensor(json.loads(tokens))).logits.contiguous()
save_file(logits, Path(out) / "logits.safetensors")
"""


@pytest.mark.slow
def test_an_adapter_comes_back_in_another_process(folder, tmp_path):
    expected = {}
    for form in FORMS:
        model = spread(curlora(folder, form))
        model.save_pretrained(tmp_path / form)
        expected[form] = logits(model)
    arguments = [str(folder), str(tmp_path), str(TOKENS.tolist()), *FORMS]
    subprocess.run([sys.executable, "-c", _LOAD, *arguments], check=True)
    got = load_file(tmp_path / "logits.safetensors")
    for form in FORMS:
        assert torch.equal(got[form], expected[form])


@pytest.mark.filterwarnings("ignore:Adapter .* differs from the one it was made on")
@pytest.mark.parametrize("form", FORMS)
def test_the_float_base_is_recognised_within_the_rounding(folder, form, tmp_path):
    """It takes the adapter, columns from the exact weight, and another base is still refused."""
    model = spread(curlora(folder, form))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(folder, None), str(tmp_path))
    both = [curlora_layers(m, "default").values() for m in (model, loaded)]
    for quantised, exact in zip(*both, strict=True):
        one, two = quantised.factors("default"), exact.factors("default")
        assert torch.equal(one.columns, two.columns)
        gap = float((one.C - two.C).norm() / two.C.norm())
        assert 0 < gap < (0.12 if form == "nf4" else 0.01)
    other = base(folder, None)
    with torch.no_grad():
        for p in other.parameters():
            p.copy_(torch.randn(p.shape))
    with pytest.raises(ValueError, match="differs from the one it was made on"):
        PeftModel.from_pretrained(other, str(tmp_path))


def test_memory_is_counted_by_dtype_with_the_scales(folder):
    exact = memory_footprint(base(folder, None))
    linear = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    rest = 2 * 50 * 64 + 5 * 64
    assert exact["float32"] == pytest.approx(4 * (linear + rest), abs=4 * 64)
    nf4 = memory_footprint(base(folder, "nf4"))
    assert nf4["uint8"] == linear // 2
    assert nf4["float32"] == pytest.approx(4 * (rest + linear / 64), abs=4 * 16 * 20)
    for form in ("int8", "torchao_int8"):
        counted = memory_footprint(base(folder, form))
        assert counted["int8"] == pytest.approx(linear, rel=0.05)
        assert sum(counted.values()) < 0.5 * sum(exact.values())


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_what_cannot_be_trained_on_a_quantised_base_says_why(kind):
    assert quantisation_refuses(kind, None) is None
    reason = quantisation_refuses(kind, "nf4")
    if kind in {"curlora", "lora", "rslora", "head_only"}:
        assert reason is None
    else:
        assert reason is not None
        assert kind in reason
        assert "model.quantization" in reason


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_package_names_the_extra(folder, form, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed. Install the extra `quantised`"):
        base(folder, form)


def test_zero_3_is_refused(folder):
    zero3 = {"zero_optimization": {"stage": 3}}
    with partitioned(zero3), pytest.raises(ModelError, match="combined with ZeRO stage 3"):
        base(folder, "nf4")


def test_a_gguf_file_is_not_quantised_again():
    with pytest.raises(ValueError, match="`quantization` needs a model of `name`"):
        ModelSpec(gguf="model.gguf", quantization="nf4")
