import pytest

from orchestrator.records.sweep_state import SweepState

TASKS = ["a", "b"]
PROBE = {"accuracy": 0.5, "accuracy_norm": 0.25}
"""What a multiple-choice probe scores; its task file says by which it is judged."""


@pytest.fixture(scope="module")
def results(benchmark_module):
    return benchmark_module("results")


def report(task, index, row, per_example, perplexity=20.0, **more):
    return {
        "task": task, "task_index": index, "row": row, "per_example": per_example, "fraction": 1.0,
        "probes": {"prose": {"perplexity": perplexity}, "choice": PROBE}, **more,
    }  # fmt: skip


def view_of(*trials):
    """A sweep over two tasks of two examples each; a trial is the reports of its tasks."""
    base = report(
        "", -1, [0.5, 0.0], {"a": [1.0, 0.0], "b": [0.0, 0.0]}, perplexity=10.0,
        head_only_per_example={"a": [1.0, 1.0], "b": [0.0, 0.0]},
    )  # fmt: skip
    lines = [
        {
            "event": "sweep_opened",
            "sweep": "s",
            "experiment": {"tasks": TASKS},
            "tasks": {"choice": {"metric": "accuracy_norm"}},
        },
        {"event": "stage_report", "trial": "base", "report": base},
        {"event": "trial_ended", "trial": "base", "state": "COMPLETE"},
    ]
    for number, reports in enumerate(trials):
        lines += [{"event": "stage_report", "trial": f"t{number}", "report": r} for r in reports]
        lines.append({
            "event": "trial_ended", "trial": f"t{number}", "state": "COMPLETE",
            "measures": {"cost_s": 60.0 * (number + 1)},
        })  # fmt: skip
    return SweepState.of(lines)


def sequential(second_of_a):
    """Learns `a` perfectly, then half of `b`, and has `second_of_a` of `a` left."""
    return [
        report("a", 0, [1.0, 0.0], {"a": [1.0, 1.0]}),
        report("b", 1, [sum(second_of_a) / 2, 0.5], {"a": second_of_a, "b": [1.0, 0.0]}, 40.0),
    ]


def test_what_was_learnt_and_forgotten_is_the_mean_over_tasks_and_seeds(results):
    view = view_of(sequential([1.0, 0.0]), sequential([0.0, 0.0]))

    one = results.outcome(view, view.trials)

    assert one.learnt == 0.75
    assert one.accuracy == (0.25 + 0.5) / 2
    assert one.forgotten[0] == 0.75 - 0.375
    assert one.learnt_gain[0] == 0.75 - 0.25
    assert one.gain[0] == 0.375 - 0.25
    assert one.over_heads[0] == 0.375 - 0.5
    assert (one.perplexity, one.choice_probe, one.seconds) == (40.0, 0.25, 90.0)


def test_an_interval_holds_the_difference(results):
    view = view_of(sequential([1.0, 0.0]))
    one = results.outcome(view, view.trials)
    for value, (low, high) in (one.learnt_gain, one.gain, one.forgotten):
        assert low <= value <= high


def test_what_is_learnt_jointly_cannot_be_forgotten(results):
    joint = [report("all tasks", 1, [1.0, 0.5], {"a": [1.0, 1.0], "b": [1.0, 0.0]})]
    view = view_of(joint)

    one = results.outcome(view, view.trials)

    assert one.forgotten is None
    assert one.learnt == one.accuracy == 0.75
