"""What a sweep may spend: whether another trial fits, when running ones are ended, what is said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.records.events import StageReported, TrialEnded, TrialProposed
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep.deciding.budget import Budget, Forecast
from orchestrator.sweep.deciding.proposals import Proposals

SEEDS = {"space": {"training.seed": {"choice": list(range(20))}}, "searcher": "grid"}
HOUR = {**SEEDS, "time_budget": "1h"}
TWO_CORES = [ResourceSpec(), ResourceSpec()]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def budgets(ledgers):
    """Makes the budget of a sweep, its clock and its ledger."""

    def make(forecast=None, **search):
        clock, ledger = Clock(), ledgers(search={**SEEDS, **search})
        return Budget(ledger, forecast, clock), clock, ledger

    return make


def run(budget, clock, ledger, name, seconds, held=TWO_CORES):
    """A trial of the search from its proposal to its end."""
    if name not in ledger.trials:
        ledger.record(TrialProposed(name, {}, "user"))
    budget.started(name, 0.0)
    clock.now += seconds
    budget.tick(held)
    ledger.record(TrialEnded(name, "COMPLETE", measures={"gain": 0.1}))
    budget.trial_ended(name, whole=True)


def test_without_a_budget_everything_fits_and_nothing_is_journalled(budgets):
    budget, clock, ledger = budgets()
    run(budget, clock, ledger, "t001", 10**9)
    assert budget.fits(10**6)
    assert not budget.overdrawn
    assert "budget_spent" not in [line["event"] for line in ledger.journal.lines]


def test_the_next_trial_fits_while_what_trials_took_leaves_room_for_it(budgets):
    budget, clock, ledger = budgets(time_budget="1h")
    assert budget.fits(), "the first always runs"
    for number, fits in enumerate([True, True, False], start=1):
        run(budget, clock, ledger, f"t{number:03d}", 1000)
        assert budget.fits() is fits, number
    assert not budget.overdrawn, "nothing that runs is ended for a trial that was not proposed"


def test_trials_that_run_need_their_rest(budgets):
    budget, clock, ledger = budgets(time_budget="1h")
    run(budget, clock, ledger, "t001", 1000)
    ledger.record(TrialProposed("t002", {}, "user"))
    budget.started("t002", 0.0)
    assert budget.fits(1)
    assert not budget.fits(2)
    clock.now += 500
    budget.tick(TWO_CORES)
    budget.progress("t002", 0.5)
    assert budget.work == 1.5
    assert budget.fits(1), "1500 s are spent, and a half and a whole need as much again"
    assert not budget.fits(2)


def test_before_a_trial_has_ended_the_forecast_decides(budgets):
    forecast = Forecast({"time": 500.0, "core": 1000.0, "gpu": 0.0}, alone=1000.0)
    budget, clock, ledger = budgets(forecast, time_budget="30min")
    for number in (1, 2):
        ledger.record(TrialProposed(f"t00{number}", {}, "user"))
    assert budget.fits(1)
    assert not budget.fits(2), "four trials of 500 s are 2000 s"
    clock.now += 900
    budget.tick(TWO_CORES)
    assert not budget.fits(1), "it would take 1000 s from its start"


def test_compute_is_what_workers_hold(budgets):
    budget, clock, ledger = budgets(compute_budget="1 core-hours")
    run(budget, clock, ledger, "t001", 600)
    assert budget.spent == {"time": 600.0, "core": 1200.0, "gpu": 0.0}
    assert budget.fits(2)
    assert not budget.fits(3)
    gpu = ResourceSpec(workers=2, gpus_per_worker=4)
    clock.now += 10
    budget.tick([gpu])
    assert budget.spent["gpu"] == 80.0


@pytest.mark.parametrize(("allowed", "last"), [("1h", 3960), ("1min", 120)])
def test_what_runs_is_ended_past_a_tenth_more_or_a_minute(budgets, reported, allowed, last):
    budget, clock, ledger = budgets(time_budget=allowed)
    ledger.record(TrialProposed("t001", {}, "user"))
    clock.now += 10 * last
    budget.tick(TWO_CORES)
    assert not budget.overdrawn, "row 0 is not known"
    ledger.record(TrialProposed("base", {}, "control"))
    reported(ledger, "base")
    assert budget.overdrawn
    budget = Budget(ledger, None, clock)
    clock.now += last
    budget.tick(TWO_CORES)
    assert not budget.overdrawn
    clock.now += 1
    budget.tick(TWO_CORES)
    assert budget.overdrawn


def test_a_sweep_that_goes_on_has_spent_what_it_had_spent(budgets, ledgers):
    budget, clock, ledger = budgets(time_budget="1h")
    run(budget, clock, ledger, "t001", 1000)
    run(budget, clock, ledger, "t002", 1000)
    later = Clock()
    later.now = 10.0**6
    again = Budget(ledgers(search=HOUR), None, later)
    assert again.spent == budget.spent
    assert again.work == 2.0
    assert again.each("time") == budget.each("time") == 1000
    assert again.fits(1) is budget.fits(1) is True
    assert again.fits(2) is budget.fits(2) is False


def test_a_trial_that_goes_on_counts_for_what_it_has_yet_to_do(budgets):
    budget, _, _ = budgets(time_budget="1h")
    budget.started("t001", 0.75)
    budget.trial_ended("t001", whole=True)
    assert budget.work == 0.25


def test_a_search_waits_while_trials_run_and_ends_when_none_fits(budgets):
    budget, clock, ledger = budgets(time_budget="1h")
    proposals = Proposals(ledger, budget)
    for _ in range(2):
        proposals.next()
    assert list(ledger.trials) == ["base", "t001"]
    run(budget, clock, ledger, "t001", 1500)
    assert proposals.next() == "t002"
    assert proposals.next() is None, "a third would end after 4500 s"
    assert proposals.may_come
    assert proposals.missing == 18
    run(budget, clock, ledger, "t002", 1200)
    assert proposals.next() is None
    assert budget.ended
    assert (proposals.total, proposals.missing, proposals.left_out) == (2, 0, 18)
    assert not proposals.may_come
    told = budget.words(proposals.left_out)
    assert told == (
        "The time budget ended the search after 2 of 20 trials: 45 min 00 s of 1 h 00 min are "
        "spent, and one more trial takes about 22 min 30 s, the 18 trials left about 6 h 45 min. "
        "A larger budget lets the same command go on."
    )


def test_room_is_left_for_the_finalists_repetitions(ledgers):
    clock = Clock()
    ledger = ledgers(search={**HOUR, "space": {"training.learning_rate": {"choice": [
        0.001 * n for n in range(1, 21)]}}}, finalists={"fresh_seeds": 2})  # fmt: skip
    budget = Budget(ledger, None, clock)
    proposals = Proposals(ledger, budget)
    proposals.next()
    name = proposals.next()
    run(budget, clock, ledger, name, 1000)
    # 2600 s are left: one trial and two repetitions would need 3000.
    assert proposals.next() == "t001-s1"
    assert budget.ended


@settings(max_examples=60, deadline=None)
@given(
    seconds=st.lists(st.floats(1, 2000), min_size=1, max_size=40),
    budget_s=st.integers(60, 20000),
    wrong=st.floats(0.3, 3.0),
)
def test_a_search_exceeds_its_budget_by_no_more_than_its_grace(seconds, budget_s, wrong):
    """Trials of any length, one at a time, and a forecast that may be wrong three times over."""
    import tempfile
    from pathlib import Path

    from orchestrator.sweep.deciding.ledger import Ledger
    from tests.conftest import Recorder
    from tests.made_up_sweep import answers, made_up_data, opened_journal, report

    with tempfile.TemporaryDirectory() as folder:
        search = {**SEEDS, "time_budget": f"{budget_s}s"}
        loaded, data = made_up_data(search=search)
        journal = opened_journal(Path(folder) / "sweep")
        try:
            ledger, clock = Ledger(loaded, journal, Recorder(), data), Clock()
            ledger.record(TrialProposed("base", {}, "control"))
            ledger.record(StageReported("base", report(-1, answers(0.3, "base"))))
            each = wrong * seconds[0]
            budget = Budget(ledger, Forecast({"time": each}, each), clock)
            for number, one in enumerate(seconds[:19], start=1):
                if not budget.fits():
                    break
                name = f"t{number:03d}"
                ledger.record(TrialProposed(name, {}, "user"))
                budget.started(name, 0.0)
                for tenth in range(1, 11):
                    clock.now += one / 10
                    budget.tick(TWO_CORES)
                    budget.progress(name, tenth / 10)
                    if budget.overdrawn:
                        break
                if budget.overdrawn:
                    break
                ledger.record(TrialEnded(name, "COMPLETE", measures={"gain": 0.0}))
                budget.trial_ended(name, whole=True)
            # It is looked at once a tenth of a trial.
            grace = max(0.1 * budget_s, 60.0) + max(seconds) / 10
            assert budget.spent["time"] <= budget_s + grace
        finally:
            journal.close()
