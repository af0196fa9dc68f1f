"""Presets and settings of methods, against the tables of the adapter library."""

import pytest
from pydantic import ValidationError

from curlora import ADAPTERS
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.planning.method_sizes import method_problems
from orchestrator.spec.adapter_settings import ADAPTER_SETTINGS, adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.reach import possible_methods
from orchestrator.spec.retention_settings import RETENTION_SETTINGS, retention_options
from orchestrator.spec.space.assignments import grid_points
from orchestrator.spec.validation import ExperimentError

REQUIRED = {"corda": {"source": "text"}}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapters_settings_are_the_librarys_with_its_defaults(kind):
    made = ADAPTER_SETTINGS[kind].model_validate({"kind": kind, **REQUIRED.get(kind, {})})
    theirs = {k: v for k, v in ADAPTERS[kind].defaults.items() if k != "preset"}
    assert adapter_options(made) == theirs


def test_every_adapter_of_the_library_has_settings_and_no_other():
    assert set(ADAPTER_SETTINGS) == set(ADAPTERS)
    assert set(RETENTION_SETTINGS) == set(RETENTIONS)


@pytest.mark.parametrize("kind", RETENTIONS)
def test_a_retentions_settings_are_the_librarys_with_its_defaults(kind):
    made = RETENTION_SETTINGS[kind].model_validate({"kind": kind})
    assert RETENTIONS[kind].complete(retention_options(made, seed=0)) == RETENTIONS[kind].complete()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_method_that_its_adapter_and_retention_accept(name):
    if PRESETS[name].method is None:
        with pytest.raises(ValidationError, match="measured in every sweep"):
            MethodSpec.model_validate({"preset": name})
        return
    method = MethodSpec.model_validate({"preset": name})
    assert method.name == name
    ADAPTERS[method.adapter.kind].complete(adapter_options(method.adapter))
    options = retention_options(method.retention, seed=3)
    RETENTIONS[method.retention.kind].build(options)
    assert RETENTIONS[method.retention.kind].refuses(method.adapter.kind, options) is None
    assert MethodSpec.model_validate(method.model_dump(mode="json")) == method


@pytest.mark.parametrize(
    ("name", "field", "left_out"),
    [
        ("i-lora", "dropout", "dropout of 0.1 and 500 warm-up steps"),
        ("o-lora", "dropout", "dropout of 0.1"),
        ("secura", "bias", "out-bias"),
    ],
)
def test_a_preset_names_what_it_leaves_out_of_its_source(name, field, left_out):
    adapter = MethodSpec.model_validate({"preset": name}).adapter
    assert getattr(adapter, field, 0.0) == 0.0
    assert f"without its {left_out}" in PRESETS[name].summary


def test_what_is_written_beside_a_preset_replaces_its_setting():
    method = MethodSpec.model_validate({"preset": "lalora", "adapter": {"r": 4}})
    assert (method.adapter.r, method.adapter.alpha) == (4, 16.0)
    assert method.retention.kind == "laplace"
    other = MethodSpec.model_validate({"preset": "lalora", "adapter": {"kind": "curlora"}})
    assert (other.adapter.kind, other.adapter.alpha) == ("curlora", 1.0)


def test_an_override_of_the_preset_replaces_the_method(experiment_file):
    experiment = load_experiment(experiment_file()).experiment
    changed = experiment.with_overrides({"method.preset": "er", "method.adapter.r": 2})
    assert (changed.method.adapter.kind, changed.method.adapter.r) == ("lora", 2)
    assert changed.method.retention.kind == "replay"
    again = changed.with_overrides({"method.retention.kind": "none"})
    assert again.method.preset is None
    assert again.method.name == "lora"


SPACE = {
    "method.preset": {"choice": ["curlora", "seq", "er"]},
    "training.learning_rate": [
        {"choice": [0.1, 0.2], "when": {"method.preset": "curlora"}},
        {"choice": [0.01, 0.02], "when": {"method.preset": ["seq", "er"]}},
    ],
}


def test_a_setting_may_have_another_domain_for_each_preset(experiment_file):
    path = experiment_file(search={"space": SPACE, "searcher": "grid", "trials": 6})
    experiment = load_experiment(path).experiment
    points = grid_points(experiment.search.space)
    assert [(p["method.preset"], p["training.learning_rate"]) for p in points] == [
        ("curlora", 0.1), ("curlora", 0.2), ("seq", 0.01), ("seq", 0.02), ("er", 0.01),
        ("er", 0.02),
    ]  # fmt: skip
    assert {m.name for m in possible_methods(experiment)} == {"curlora", "seq", "er"}


def test_a_head_only_preset_without_heads_is_refused(experiment_file):
    space = {"method.preset": {"choice": ["curlora", "head-only"]}}
    path = experiment_file(search={"space": space, "searcher": "grid", "trials": 2})
    with pytest.raises(ExperimentError, match="trains linear heads and nothing else"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("executor", "adapter", "refused"),
    [
        ("train", {"kind": "dora"}, True),
        ("pool", {"kind": "dora"}, False),  # a member reads the parts by itself
        ("pool", {"kind": "dora", "dropout": 0.1}, True),  # what is not packed runs as with `train`
        ("train", {"kind": "curlora"}, False),
        ("pool", {"kind": "tinylora"}, True),
    ],
)
def test_an_adapter_that_a_sharded_base_cannot_have_is_a_problem(executor, adapter, refused):
    experiment = Experiment.model_validate({
        "name": "zero3", "model": {"name": "none"}, "tasks": ["a"], "method": {"adapter": adapter},
        "training": {"learning_rate": 1e-3, "deepspeed": {"zero_optimization": {"stage": 3}}},
        "resources": {"executor": executor},
    })  # fmt: skip
    found = [text for text in method_problems(experiment, None) if "has sharded them" in text]
    assert bool(found) == refused
