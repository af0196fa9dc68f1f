"""A CURLoRA adapter as plain LoRA: equal, and loadable where this package is not installed."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from curlora import CurloraConfig, export_lora, save_adapter

TARGETS = ["q_proj", "k_proj", "v_proj"]


@pytest.fixture
def adapted(build_base, train):
    def build(family="llama", *, dtype=torch.float32, **settings):
        settings = {"r": 4, "alpha": 3.0, "target_modules": TARGETS} | settings
        model = get_peft_model(build_base(family, dtype=dtype), CurloraConfig(**settings)).eval()
        train(model)
        return model

    return build


def assert_exact(actual, expected):
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"target_modules": "all-linear"}),
        ("llama", {"target_modules": r".*\.(q|v)_proj"}),
        ("llama", {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"0.self_attn.q_proj": 0.5}}),
        ("llama", {"layers_to_transform": [1], "exclude_modules": ["v_proj"]}),
        ("qwen2", {}),
        ("gemma", {"target_modules": "all-linear"}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "rank_pattern": {"attn.c_proj": 3}}),
    ],
)
def test_the_export_computes_the_same(family, settings, adapted, build_base, tokens, tmp_path):
    model = adapted(family, **settings)
    expected = model(tokens).logits
    folder = export_lora(model, tmp_path / "new" / "lora")
    exported = PeftModel.from_pretrained(build_base(family), folder)
    assert isinstance(exported.peft_config["default"], LoraConfig)
    assert_exact(exported(tokens).logits, expected)
    assert (expected - build_base(family)(tokens).logits).abs().max() > 1e-3 * expected.abs().max()
    tensors = load_file(folder / "adapter_model.safetensors")
    assert not any("cur_" in name for name in tensors)
    # Right also to what knows one rank and one scale, and ignores both patterns.
    config = json.loads((folder / "adapter_config.json").read_text())
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert config["lora_alpha"] == config["r"]
    ranks = {t.shape[0] if ".lora_A." in name else t.shape[1] for name, t in tensors.items()}
    assert ranks == {config["r"]}


def test_what_is_written_is_as_open_as_any_new_file(adapted, tmp_path):
    model = adapted()
    for mask, mode in ((0o022, 0o644), (0o027, 0o640)):
        before = os.umask(mask)
        try:
            folder = export_lora(model, tmp_path / f"export-{mask}")
            kept = save_adapter(model, tmp_path / f"adapter-{mask}")
        finally:
            os.umask(before)
        for path in (*folder.iterdir(), *kept.iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_a_merged_adapter_exports_alike(adapted, build_base, tokens, tmp_path):
    model = adapted()
    expected = model(tokens).logits
    model.merge_adapter()
    exported = PeftModel.from_pretrained(build_base(), export_lora(model, tmp_path))
    assert_exact(exported(tokens).logits, expected)


def test_a_named_adapter_is_exported(adapted, build_base, train, tokens, tmp_path):
    model = adapted()
    model.add_adapter("second", CurloraConfig(r=2, target_modules=["q_proj"]))
    model.set_adapter("second")
    train(model, seed=9)
    second = model(tokens).logits
    for name in (None, "second"):  # by default the active one
        exported = PeftModel.from_pretrained(
            build_base(), export_lora(model, tmp_path, adapter_name=name)
        )
        assert_exact(exported(tokens).logits, second)
    export_lora(model, tmp_path / "first", adapter_name="default")
    model.set_adapter("default")
    exported = PeftModel.from_pretrained(build_base(), tmp_path / "first")
    assert_exact(exported(tokens).logits, model(tokens).logits)


def test_a_bfloat16_adapter_keeps_float32_factors(adapted, build_base, tokens, tmp_path):
    model = adapted(dtype=torch.bfloat16)
    export_lora(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    exported = PeftModel.from_pretrained(build_base(dtype=torch.bfloat16), tmp_path)
    torch.testing.assert_close(
        exported(tokens).logits.float(), model(tokens).logits.float(), rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "no adapter 'missing'.*here: .'default'."), ("plain", "adapter 'plain'")],
)
def test_an_adapter_that_is_not_there_is_refused(adapted, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        export_lora(adapted(), tmp_path, adapter_name=name)


def test_two_active_adapters_must_be_named(adapted, tmp_path):
    model = adapted()
    model.add_adapter("second", CurloraConfig(r=2, target_modules=TARGETS))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match=r"are active. Name the one to export"):
        export_lora(model, tmp_path)


def test_a_model_without_peft_is_refused(build_base, tmp_path):
    with pytest.raises(TypeError, match=r"must be a PeftModel, got Llama.*`merged`"):
        export_lora(build_base(), tmp_path)


_WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["curlora"] = None  # as if it were not installed
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(base, sys.argv[2])
json.dump(model(torch.tensor(json.loads(sys.argv[3]))).logits.tolist(), open(sys.argv[4], "w"))
"""


def test_it_loads_where_the_package_is_not_installed(adapted, build_base, tokens, tmp_path):
    model = adapted()
    build_base().save_pretrained(tmp_path / "base")
    export_lora(model, tmp_path / "lora")
    arguments = [tmp_path / "base", tmp_path / "lora", tokens.tolist(), tmp_path / "logits.json"]
    subprocess.run(
        [sys.executable, "-c", _WITHOUT_THE_PACKAGE, *map(str, arguments)],
        check=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
    )
    logits = torch.tensor(json.loads((tmp_path / "logits.json").read_text()))
    assert_exact(logits, model(tokens).logits)
