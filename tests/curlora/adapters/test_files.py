"""A damaged adapter is refused with its file and the reason; none of it keeps its start values."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from curlora import AdapterError, attach, load_adapter, save_adapter

SETTINGS = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(params=["curlora", "lora"])
def folder(request, build_base, tmp_path):
    return save_adapter(attach(build_base("llama"), request.param, SETTINGS, seed=0), tmp_path)


def change(folder, change_tensors):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change_tensors(tensors)
    save_file(tensors, path)


def renamed(tensors):
    name = min(tensors)
    tensors[name.replace("q_proj", "k_proj")] = tensors.pop(name)


def dropped(tensors):
    del tensors[max(tensors)]


def one_more(tensors):
    tensors["base_model.model.other.weight"] = torch.zeros(2)


def not_finite(number):
    def fill(tensors):
        name = next(n for n, t in tensors.items() if t.is_floating_point())
        tensors[name].view(-1)[0] = number

    return fill


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (renamed, r"lacks 1 of the adapter's tensors, first `.*`; it holds `.*k_proj"),
        (dropped, "lacks 1 of the adapter's tensors"),
        (one_more, "holds 1 tensors that the adapter .* does not have"),
        (not_finite(float("nan")), "are NaN or infinite"),
        (not_finite(float("-inf")), "are NaN or infinite"),
    ],
)
def test_tensors_that_are_not_the_adapters_are_refused(folder, build_base, damage, told):
    change(folder, damage)
    with pytest.raises(AdapterError, match=told) as caught:
        load_adapter(build_base("llama"), folder)
    assert str(folder / "adapter_model.safetensors") in str(caught.value)


@pytest.mark.parametrize("index", [-1, 10**6])
def test_an_index_outside_the_weight_is_refused_with_the_reason(build_base, tmp_path, index):
    save_adapter(attach(build_base("llama"), "curlora", SETTINGS, seed=0), tmp_path)

    def outside(tensors):
        name = next(n for n in tensors if n.endswith("rows"))
        tensors[name][0] = index

    change(tmp_path, outside)
    with pytest.raises(AdapterError, match=rf"selects rows \[{index}\].*has only 0 to"):
        load_adapter(build_base("llama"), tmp_path)


FILES = {
    "adapter_model.safetensors": [
        (b"", "not a complete safetensors file"), (None, "There is no"),
        (b"\xff" * 64, "not a complete"),
    ],
    "adapter_config.json": [
        (b"", "not valid JSON"), (b"[]", "should hold a JSON object"), (None, "cannot be read"),
        (b'{"peft_type": "LORA", "peft_type": "CURLORA"}', "'peft_type' stands .* twice"),
        (b'{"peft_type": "NOTHING"}', "cannot be put on this base"), (b"{}", "cannot be put on"),
    ],
    "adapter.json": [
        (b"{", "not valid JSON"), (b'{"kind": 1}', "`kind` should be a str, got 1"),
        (b'{"kind": "lora", "stored": "zip", "settings": {}}', "stored as 'zip'"),
    ],
}  # fmt: skip


def test_files_that_are_no_adapters_are_refused(build_base, tmp_path):
    save_adapter(attach(build_base("llama"), "lora", SETTINGS, seed=0), tmp_path)
    base = build_base("llama")
    for name, damages in FILES.items():
        sound = (tmp_path / name).read_bytes()
        for content, told in damages:
            if content is None:
                (tmp_path / name).unlink()
            else:
                (tmp_path / name).write_bytes(content)
            with pytest.raises(AdapterError, match=told):
                load_adapter(base, tmp_path)
        (tmp_path / name).write_bytes(sound)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 10**7}))
    with pytest.raises(AdapterError, match="says r = 10000000, and no tensor"):
        load_adapter(base, tmp_path)


def test_a_model_trained_whole_lacks_nothing(build_base, tmp_path):
    save_adapter(attach(build_base("llama"), "full", {}, seed=0), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["x"] = tensors.pop(next(name for name in tensors if "q_proj" in name))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"lacks 1 weights, first `.*q_proj"):
        load_adapter(build_base("llama"), tmp_path)
