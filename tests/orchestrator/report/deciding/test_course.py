import pytest

from orchestrator.records.event_values import EarlyStop
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.deciding import course


def test_the_hypervolume_never_falls_and_the_front_is_that_of_all(view):
    state = view()
    steps = course.course(state)
    volumes = [step.volume for step in steps]
    assert volumes == sorted(volumes)
    assert volumes[-1] > 0.0
    assert len(steps) == len(state.searched)
    curve = course.volume_curve(steps)
    assert curve.series[0].points[0] == (0.0, 0.0)
    assert curve.series[0].points[-1][1] == pytest.approx(1.0)


def test_without_whole_trials_there_is_nothing_to_show():
    empty = SweepState()
    assert course.course(empty) == []
    assert course.volume_curve([]) is None
    assert course.front_over_time(empty, []) is None
    assert course.stopped_early(empty) is None
    assert course.knobs(empty) is None
    assert course.spent_by_method(empty) is None


def test_compute_is_counted_by_method(view):
    table = course.spent_by_method(view())
    assert [(row[1][0], row[1][1], row[1][2]) for row in table.rows] == [
        ("seq", 5, 5), ("er", 5, 5), ("joint", 5, 5),
    ]  # fmt: skip


def test_a_knob_that_orders_the_trials_is_seen_as_such(view, monkeypatch):
    monkeypatch.setattr(course, "FEWEST", 5)
    table = course.knobs(view())
    shown = {tuple(row[1][:2]): row[1][3] for row in table.rows}
    assert shown[("er", "training.learning_rate")] == "+1.00"
    monkeypatch.setattr(course, "FEWEST", 6)
    assert course.knobs(view()) is None


def test_what_was_stopped_says_where_and_by_how_much(view):
    state = view()
    trial = state.searched[0]
    trial.state = "STOPPED"
    trial.stop = EarlyStop("mood", 0.25, "gain", "t005", 0.2, (0.1, 0.3), None)
    [row] = course.stopped_early(state).rows
    assert row[1][2:] == ["25% of mood", "gain", "t005", "+0.200", "[+0.100, +0.300]"]
