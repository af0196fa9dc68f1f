"""Sweeps with a budget, run: what they propose, what they end, and how they go on."""

import pytest

from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.deciding import budget
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions

OPTIONS = SweepOptions()


@pytest.fixture
def load(experiment_file, records):
    """Loads a tiny sweep of three trials with a budget."""

    def make(executor="local", **bounds):
        search = {
            "space": {"training.learning_rate": {"choice": [0.01, 0.02, 0.03]}},
            "searcher": "grid",
            **bounds,
        }
        return load_experiment(
            experiment_file(
                tasks=["mood"],
                probes=[],
                objectives={"gain": "max"},
                champion={"subject_to": {}},
                data={"train_examples": 16, "validation_examples": 8, "test_examples": 4},
                search=search,
                resources={"executor": executor, "members": 1}
                if executor == "pool"
                else {"executor": executor},
            )
        )

    return make


def test_a_budget_ends_the_search_and_a_larger_one_goes_on(load, recorder):
    first = run_sweep(load(time_budget="0.01s"), OPTIONS, recorder)
    state = SweepState.of(first.lines)
    assert [trial.state for trial in state.searched] == ["COMPLETE"]
    assert "The time budget ended the search after 1 of 3 trials" in state.verdict.reason
    assert state.verdict.budget == {"time": 0.01}
    assert state.spent.trials == 1.0
    assert state.spent.seconds > 0.01

    again = run_sweep(load(time_budget="0.01s"), OPTIONS, recorder)
    assert len(again.lines) == len(first.lines)
    assert "nothing is left to run" in recorder.notes[-1]

    whole = SweepState.of(run_sweep(load(time_budget="10h"), OPTIONS, recorder).lines)
    assert [trial.state for trial in whole.searched] == ["COMPLETE"] * 3
    assert whole.verdict.budget is None
    assert whole.spent.trials == 3.0
    assert whole.spent.seconds > state.spent.seconds
    assert whole.experiment["search"]["time_budget"] == "10h"


@pytest.mark.parametrize("executor", ["local", pytest.param("pool", marks=pytest.mark.ray)])
def test_what_runs_past_the_grace_is_stopped_at_its_last_report(
    load, recorder, request, monkeypatch, executor
):
    if executor == "pool":
        request.getfixturevalue("ray_cluster")
    else:  # else nothing would begin, as row 0 takes longer than the budget
        monkeypatch.setattr(budget.Budget, "overdrawn", property(lambda self: self.work > 0.2))
    monkeypatch.setattr(budget, "LEAST_GRACE", 0.0)
    outcome = run_sweep(load(executor, compute_budget="0.001 core-min"), OPTIONS, recorder)
    state = SweepState.of(outcome.lines)
    stopped = [trial for trial in state.searched if trial.state == "STOPPED"]
    assert stopped
    assert {trial.reason for trial in stopped} == {"the sweep's budget was spent"}
    assert state.ended
    assert "compute budget ended the search" in state.verdict.reason
    assert not (outcome.folder / "trials" / stopped[0].name / "checkpoint").exists()


def test_an_open_ended_search_runs_until_its_budget_is_spent(load, recorder):
    loaded = load(time_budget="0.01s")
    search = loaded.experiment.search.model_copy(update={"searcher": "random"})
    experiment = loaded.experiment.model_copy(update={"search": search})
    outcome = run_sweep(loaded.model_copy(update={"experiment": experiment}), OPTIONS, recorder)
    state = SweepState.of(outcome.lines)
    assert len(state.searched) == state.total == 1
    assert "after 1 trial:" in state.verdict.reason
