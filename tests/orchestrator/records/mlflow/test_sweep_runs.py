"""What MLflow is to be told of a sweep, and how little of it is kept."""

import json

from orchestrator.records.events import read_event
from orchestrator.records.mlflow.sweep_runs import SweepRuns


def test_series_of_reports_become_points_and_are_not_kept_beside_them(new_sweep, tmp_path):
    """A sweep of a thousand trials must not fill the memory of the driver."""
    opening, *events = map(read_event, new_sweep(trials=3, steps=250))
    runs = SweepRuns(opening, tmp_path)
    for event in (opening, *events):
        runs.add(event)
    for trial in runs.state.trials:
        points = runs.pictures({trial.name})[trial.name].points
        assert sum(point.key == "step_loss" for point in points) == 3 * 250
        assert trial.reports
        for report in trial.reports:
            assert (report.losses, report.per_example) == ((), None)
    base = runs.state.everything["base"].reports[-1]
    assert base.per_example, "what every trial is compared with"
    assert json.dumps(runs.parent.parameters)
