"""A sweep whose trials step together ends as one whose trials take turns."""

import pytest

from orchestrator.experiment import load_experiment
from orchestrator.sweep import SweepOptions, run_sweep

pytestmark = pytest.mark.usefixtures("records")

SPACE = {
    "method.adapter.kind": {"choice": ["curlora", "lora", "secura"]},
    "training.learning_rate": [
        {"choice": [0.03, 0.01], "when": {"method.adapter.kind": ["curlora", "lora"]}},
        {"choice": [0.003], "when": {"method.adapter.kind": "secura"}},
    ],
}
SEARCH = {"space": SPACE, "searcher": "grid", "trials": 5}


def sweep(experiment_file, recorder, name, **resources):
    path = experiment_file(
        name,
        search=SEARCH,
        finalists={"fresh_seeds": 1},
        data={"train_examples": 16, "validation_examples": 12, "probe_tokens": 100,
              "probe_context": 32, "rung_examples": 6},
        resources=resources,
    )  # fmt: skip
    return run_sweep(load_experiment(path), SweepOptions(), recorder)


def ended(outcome):
    return {line["trial"]: line for line in outcome.lines if line["event"] == "trial_ended"}


def test_a_sweep_in_the_pool_measures_what_a_sweep_in_turns_measures(
    experiment_file, recorder, ray_cluster
):
    """Four trials of the grid are packed, three at a time; SECURA has workers of its own."""
    turns = ended(sweep(experiment_file, recorder, "turns", executor="local"))
    outcome = sweep(experiment_file, recorder, "pooled", executor="pool", slots=3)
    pooled = ended(outcome)
    assert set(pooled) == set(turns)
    assert len([name for name in pooled if name.endswith("-s1")]) == 1
    assert len(pooled) == 1 + 5 + 1
    for name, line in pooled.items():
        assert line["state"] == "COMPLETE", line
        for measure, value in turns[name]["measures"].items():
            if measure.startswith("cost") or value is None:
                continue
            assert line["measures"][measure] == pytest.approx(value, abs=2e-3), (name, measure)
        if name != "base":
            assert (outcome.folder / line["adapter"] / "adapter.json").is_file()
    steps = [line["trial"] for line in outcome.lines if line["event"] == "stage_report"]
    # Trials of the pool report in between one another, not one after the other.
    first, second = (steps.index("t001"), steps.index("t002"))
    assert second < max(i for i, name in enumerate(steps) if name == "t001") > first
