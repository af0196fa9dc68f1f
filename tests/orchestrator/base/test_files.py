"""A base whose files are damaged is one message, and never completed with random weights."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from orchestrator.base import errors, facts, files
from orchestrator.base.errors import ModelError
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.spec.sections import ModelSpec


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def spec(base):
    return ModelSpec(name=str(base))


CONFIGS = [
    ({"hidden_size": "32"}, "`hidden_size` should be a whole number above 0, got '32'"),
    ({"num_hidden_layers": None}, "`num_hidden_layers` should be a whole number above 0, got None"),
    ({"vocab_size": -1}, "`vocab_size` should be a whole number above 0, got -1"),
    ({"text_config": [1]}, "`text_config` should be an object"),
]


@pytest.mark.parametrize(("change", "told"), CONFIGS)
def test_sizes_that_are_none_are_named(base, change, told):
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(errors.BaseFilesError, match=told):
        facts.base_facts(spec(base))


def test_a_list_of_sizes_is_the_largest(base):
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": [64, 128]}))
    assert facts.base_facts(spec(base)).intermediate == 128


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "should hold a JSON object"),
        ('{\n"model_type": "llama",\n"model_type": "gpt2"}', "line 3: the key 'model_type'"),
    ],
)
def test_a_config_that_is_no_object_is_named_with_its_line(base, text, told):
    (base / "config.json").write_text(text)
    with pytest.raises(errors.BaseFilesError, match=told):
        files.check_files(spec(base))


def header_of(change):
    def damage(path):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        name = next(name for name in header if name != "__metadata__")
        change(header, name)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return damage


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda header, name: header[name].update(shape=["a"]), "has no shape and place"),
        (lambda header, name: header[name].update(shape=[-1]), "has no shape and place"),
        (lambda header, name: header[name].update(shape=[1]), "bytes for a shape of"),
        (lambda header, name: header[name].update(data_offsets=[9]), "header cannot be read"),
        (lambda header, name: header.update({name: None}), "header cannot be read"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(base, change, told):
    header_of(change)(base / "model.safetensors")
    with pytest.raises(errors.BaseFilesError, match=told):
        files.check_files(spec(base))


def test_a_base_that_lacks_a_weight_is_not_completed_at_random(base):
    path = base / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "q_proj" in name)
    tensors[name + "x"] = tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, first '.*q_proj"):
        load_base(spec(base), "fp32")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE", "vocab": 3}}'])
def test_a_damaged_tokenizer_is_one_message(base, content):
    (base / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(spec(base))


@pytest.mark.parametrize("places", [5, [], {"a": 5}, {"a": "../../etc/passwd"}])
def test_an_index_that_names_no_files_is_refused(base, places):
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(errors.BaseFilesError, match=r"does not say which file|lacks 1 of its 1"):
        files.check_files(spec(base))
