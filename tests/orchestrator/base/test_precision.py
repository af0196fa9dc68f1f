"""What `training.precision: auto` stands for."""

from orchestrator.base.devices import Device
from orchestrator.base.precision import choose_precision, with_precision
from orchestrator.spec.load import load_experiment

NEW = Device("Xeon", bf16=True, because="it has amx_bf16")
OLD = Device("Zen 3", bf16=False, because="it has no instruction for products of bf16")


def test_bf16_is_chosen_where_every_device_multiplies_it():
    assert choose_precision([NEW, NEW]).used == "bf16"
    assert choose_precision([NEW, NEW]).reason == "Xeon multiplies bf16: it has amx_bf16"


def test_one_device_without_decides_for_all():
    choice = choose_precision([NEW, OLD, NEW])
    assert choice.used == "fp32"
    assert "Zen 3 does not multiply bf16" in choice.words
    assert "Xeon" not in choice.words


def test_where_no_device_is_there_yet_it_is_what_every_device_computes():
    assert choose_precision([]).used == "fp32"


def test_a_precision_that_is_named_stands(experiment_file):
    training = {"batch_size": 8, "max_length": 48}
    named = load_experiment(experiment_file(training={**training, "precision": "fp32"}))
    assert with_precision(named, "bf16") is named
    auto = load_experiment(experiment_file(training=training))
    assert auto.experiment.training.precision == "auto"
    decided = with_precision(auto, "bf16")
    assert decided.experiment.training.precision == "bf16"
    assert decided.tasks == auto.tasks
