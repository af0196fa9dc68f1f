"""A sweep whose file says `precision: auto`, or nothing: decided once, kept, and told."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.base.devices import Device
from orchestrator.planning import warnings
from orchestrator.planning.plan import Machine
from orchestrator.planning.planner import make_plan
from orchestrator.planning.preflight import cautions
from orchestrator.records.journal import Journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import load_experiment
from orchestrator.spec.validation import ExperimentError
from orchestrator.sweep import precision
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions

NEW = Device("Xeon", bf16=True, because="it has amx_bf16")
OLD = Device("Zen 3", bf16=False, because="it has no instruction for products of bf16")
RUN = SweepOptions(kind="run")
AUTO = {"learning_rate": 0.02, "batch_size": 8, "max_length": 48}


@pytest.fixture
def small(experiment_file):
    def load(**fields):
        settings = {
            "training": AUTO,
            "tasks": ["mood"],
            "probes": [],
            "objectives": {"gain": "max"},
            "champion": {"subject_to": {}},
            "data": {"train_examples": 8, "validation_examples": 8, "test_examples": 4},
            "resources": {"executor": "local"},
        }
        return load_experiment(experiment_file(**(settings | fields)))

    return load


def devices(monkeypatch, *there):
    monkeypatch.setattr(precision, "devices_here", lambda **_: list(there))


def test_it_is_decided_once_and_kept_where_the_machine_is_another(
    small, records, recorder, monkeypatch
):
    devices(monkeypatch, NEW, OLD)
    loaded = small()
    first = run_sweep(loaded, RUN, recorder)
    state = SweepState.of(first.lines)
    assert state.experiment["training"]["precision"] == "fp32"
    assert state.precision is not None
    assert state.precision["used"] == "fp32"
    assert "Zen 3 does not multiply bf16" in state.precision["reason"]
    assert any("precision fp32 (`training.precision: auto`" in note for note in recorder.notes)

    devices(monkeypatch, NEW)
    again = run_sweep(loaded, RUN, recorder)
    assert again.folder == first.folder
    assert len(again.lines) == len(first.lines)

    with pytest.raises(SweepError, match="precision: 'fp32' -> 'bf16'"):
        run_sweep(small(training={**AUTO, "precision": "bf16"}), RUN, recorder)
    other = run_sweep(loaded, replace(RUN, new=True), recorder)
    assert SweepState.of(other.lines).experiment["training"]["precision"] == "bf16"


def test_a_sweep_from_before_goes_on_with_the_precision_that_was_the_default(
    small, records, recorder, monkeypatch
):
    devices(monkeypatch, NEW)
    begun = run_sweep(small(training={**AUTO, "precision": "fp32"}), RUN, recorder)
    assert begun.lines[0].get("precision") is None
    again = run_sweep(small(), RUN, recorder)
    assert (again.folder, len(again.lines)) == (begun.folder, len(begun.lines))


def test_a_plan_says_what_the_machine_decides(small):
    memory = {}
    for there, used in (((NEW,), "bf16"), ((NEW, OLD), "fp32"), ((), "fp32")):
        machine = Machine(2, 0, None, None, devices=there)
        plan = make_plan(small(), machine, calibrate=False)
        assert plan.precision.startswith(f"precision {used} (`training.precision: auto`")
        memory.setdefault(used, plan.memory_parts["base weights"])
    assert memory["fp32"] == 2 * memory["bf16"]
    named = make_plan(small(training={**AUTO, "precision": "bf16"}), machine, calibrate=False)
    assert named.precision == "precision bf16"


def test_bf16_on_a_processor_without_it_is_warned_of_with_the_measured_ratio(small, monkeypatch):
    monkeypatch.setattr(warnings, "processor", lambda: OLD)
    monkeypatch.setattr(warnings, "bf16_slowness", lambda *, threads: 9.62)
    asked = small(training={**AUTO, "precision": "bf16"}).experiment
    told = warnings.slow_bf16(asked)
    assert told is not None
    assert "takes 9.6 times as long" in told
    assert told in cautions(asked, Path(asked.storage))
    assert told not in cautions(asked, Path(asked.storage), address="auto")
    assert warnings.slow_bf16(small().experiment) is None
    monkeypatch.setattr(warnings, "processor", lambda: NEW)
    assert warnings.slow_bf16(asked) is None


def test_auto_is_not_a_value_of_a_search(small):
    for space, first in (
        ({"training.precision": {"choice": ["auto", "fp32"]}}, []),
        ({"training.precision": {"choice": ["bf16", "fp32"]}}, [{"training.precision": "auto"}]),
    ):
        with pytest.raises(ExperimentError, match="list `bf16` and `fp32`"):
            small(search={"space": space, "first": first, "searcher": "random", "trials": 2})


def test_invariance_is_decided_with_the_precision_and_kept_as_the_sweep_was_begun(small):
    """A sweep of an earlier version, whose journal says nothing of it, goes on without it."""
    pool = small(training={**AUTO, "precision": "fp32"}, resources={"executor": "pool"})
    decided = precision.decide_invariance(pool)
    assert decided.experiment.training.batch_invariant is True
    wider = small(training={**AUTO, "precision": "bf16"}, resources={"executor": "pool"})
    assert precision.decide_invariance(wider).experiment.training.batch_invariant is False
    for journalled, begun in (
        (decided.experiment.model_dump(mode="json"), True),
        (wider.experiment.model_dump(mode="json"), False),
    ):
        journal = SimpleNamespace(lines=[{"experiment": journalled}])
        found = precision.as_begun(pool, cast("Journal", journal))
        assert found.experiment.training.batch_invariant is begun


def test_invariance_that_cannot_be_had_is_refused_with_the_cure(small):
    loaded = small(
        training={**AUTO, "batch_invariant": True},
        resources={"executor": "pool", "cpus_per_worker": 3},
    )
    plan = make_plan(loaded, Machine(4, 0, None, None, devices=(NEW,)), calibrate=False)
    assert any("`resources.cpus_per_worker` is 3; set it to 1 or 2" in one for one in plan.problems)
