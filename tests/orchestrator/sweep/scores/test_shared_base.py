"""A base that is shared: loaded once, each model as if it had been loaded for it alone."""

import pytest
import torch

import curlora
from curlora import ADAPTERS
from orchestrator.base import loading
from orchestrator.base.loading import load_base
from orchestrator.spec.experiment import Experiment
from orchestrator.sweep.scores.shared_base import SharedBase

TOKENS = torch.arange(3, 11)[None]
KINDS = sorted(name for name, kind in ADAPTERS.items() if not kind.reads_text)


@pytest.fixture
def experiment(tiny_base):
    return Experiment.model_validate({
        "name": "shared", "model": {"name": str(tiny_base)}, "tasks": ["mood"],
        "method": {"adapter": {"kind": "lora"}},
        "training": {"precision": "fp32"}, "objectives": {"gain": "max"},
        "champion": {"maximize": "gain", "subject_to": {}}, "resources": {"executor": "local"},
    })  # fmt: skip


@pytest.fixture
def loads(monkeypatch):
    """The bases that are loaded from now on."""
    found = []

    def counted(*arguments):
        found.append(load_base(*arguments))
        return found[-1]

    monkeypatch.setattr(loading, "load_base", counted)
    return found


def saved(experiment, kind, folder):
    """An adapter of some kind, changed by a step as it were."""
    known = ADAPTERS[kind].settings
    settings = {"target_modules": ["q_proj"], "r": 2}
    model = curlora.attach(
        load_base(experiment.model, "fp32"),
        kind, {name: value for name, value in settings.items() if name in known}, seed=0,
    )  # fmt: skip
    for parameter in curlora.trainable_parameters(model).values():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    curlora.save_adapter(model, folder / kind)
    return folder / kind


def logits(model):
    with torch.inference_mode():
        return model(input_ids=TOKENS).logits


def test_models_are_what_they_are_on_a_base_of_their_own(experiment, tmp_path, loads):
    folders = {kind: saved(experiment, kind, tmp_path) for kind in KINDS}
    bare, own = logits(load_base(experiment.model, "fp32")), {}
    for kind, folder in folders.items():
        own[kind] = logits(curlora.load_adapter(load_base(experiment.model, "fp32"), folder).eval())
    base = SharedBase()
    for kind, folder in folders.items():
        assert torch.equal(logits(base.model(experiment, folder)), own[kind]), kind
        assert torch.equal(logits(base.model(experiment, None)), bare), kind
    assert len(loads) == 1


def test_a_base_that_was_written_into_is_loaded_anew(experiment, loads):
    base = SharedBase()
    model = base.model(experiment, None)
    expected = logits(model)
    next(model.parameters()).data[0, 0] += 1.0
    assert torch.equal(logits(base.model(experiment, None)), expected)
    assert len(loads) == 2
