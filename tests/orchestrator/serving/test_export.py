"""What an exported LoRA says of itself is read right by who reads rank and alpha alone."""

import json

import torch

import curlora
from orchestrator.serving.export import export
from orchestrator.serving.find import load_folder
from orchestrator.serving.hub.card_facts import card_facts


def test_the_scale_of_an_rslora_is_in_its_alpha(write_model, tiny_base, tmp_path):
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "alpha": 8.0, "target_modules": ["q_proj", "up_proj"]}
    folder = write_model(tmp_path / "model", "rslora", settings, [])
    export(folder, "lora", tmp_path / "lora", card_facts(folder, tmp_path, "it"))
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert not config["use_rslora"]
    assert config["lora_alpha"] == config["r"] == 4
    tokens = torch.arange(10)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    again = curlora.load_adapter(base, tmp_path / "lora").eval()
    with torch.no_grad():
        wanted = load_folder(folder).model(input_ids=tokens).logits
        assert torch.allclose(again(input_ids=tokens).logits, wanted, atol=2e-5)
