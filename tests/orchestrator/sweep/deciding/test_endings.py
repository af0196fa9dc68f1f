"""How trials end."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator.records.events import StageReported
from orchestrator.sweep.deciding.admission import Admission
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.endings import ENOUGH_FAILURES, Endings
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.proposals import Proposals
from tests.made_up_sweep import answers, report

SEEDS = {"space": {"training.seed": {"choice": list(range(9))}}, "searcher": "grid", "trials": 9}


@pytest.fixture
def sweep(ledgers):
    """The parts that end trials, of a sweep whose base and first trials are running."""

    def make(**changes):
        ledger: Ledger = ledgers(**{"search": SEEDS, **changes})
        proposals, measured = Proposals(ledger, Budget(ledger)), []
        admission = Admission(ledger, proposals)
        for _ in range(ENOUGH_FAILURES + 2):
            proposals.next()
        endings = Endings(
            ledger, proposals, admission, KeptWork(ledger), Budget(ledger), measured.append
        )
        return SimpleNamespace(
            ledger=ledger, endings=endings, admission=admission, measured=measured
        )

    return make


def ends(sweep):
    """Trial, state and reason of each that has ended, in that order."""
    lines = [line for line in sweep.ledger.journal.lines if line["event"] == "trial_ended"]
    return [(line["trial"], line["state"], line["reason"]) for line in lines]


def test_what_is_whole_before_row_0_ends_with_it(sweep, reported):
    made = sweep()
    reported(made.ledger, "t001", 0.9)
    made.endings.finish("t001")
    assert ends(made) == []
    reported(made.ledger, "base", 0.5)
    made.endings.finish("base")
    assert ends(made) == [("base", "COMPLETE", ""), ("t001", "COMPLETE", "")]
    assert [row.row for row in made.measured] == [made.ledger.base_report().row]
    base, own = (sum(answers(*x)) / 60 for x in ((0.5, "base"), (0.9, "t001")))
    assert made.ledger.trials["t001"].measures["gain"] == pytest.approx(own - base)
    made.endings.finish("t001")
    assert len(ends(made)) == 2, "nothing ends twice"


def test_a_trial_without_a_last_report_has_failed_unless_a_scheduler_stopped_it(sweep):
    made = sweep()
    trials = made.ledger.trials
    trials["t001"].failure = "out of luck"
    trials["t002"].trouble = "its adapter is gone"
    for name in ("t001", "t002", "t003"):
        made.endings.finish(name)
    made.admission.scheduled = True
    made.ledger.record(StageReported("t004", replace(report(0, answers(0.5)), fraction=0.5)))
    made.endings.finish("t004")
    assert ends(made) == [
        ("t001", "FAILED", "out of luck"),
        ("t002", "FAILED", "its adapter is gone"),
        ("t003", "FAILED", "the trial ended before its last report"),
        ("t004", "STOPPED", "stopped by the scheduler"),
    ]
    assert [trial.name for trial in made.endings.failures_now()] == ["t001", "t002", "t003"]


def test_a_sweep_is_given_up_when_only_failures_came_and_not_after_a_success(sweep, reported):
    made = sweep()
    for number in range(1, ENOUGH_FAILURES + 1):
        assert not made.endings.given_up
        made.endings.finish(f"t{number:03d}")
    assert made.endings.given_up
    reported(made.ledger, "t004")
    assert not made.endings.given_up, "one shows that trials can be"


def test_without_the_base_nothing_can_be_judged(sweep):
    made = sweep()
    made.endings.finish("base")
    assert made.endings.given_up


def test_a_trial_that_cannot_be_says_nothing_of_the_others(sweep):
    made = sweep()
    for name in ("t001", "t002", "t003"):
        made.endings.refuse(made.ledger.trials[name], "they exclude each other")
    assert ends(made)[0][2] == "its settings are impossible together: they exclude each other"
    assert made.endings.failures_now() == []
    assert not made.endings.given_up


def test_an_objective_without_a_value_fails_the_trial(sweep, reported):
    made = sweep()
    reported(made.ledger, "base")
    made.endings.finish("base")
    unknown = replace(report(0, answers(0.5)), row=(math.nan,))
    made.ledger.record(StageReported("t001", unknown))
    made.endings.finish("t001")
    assert ends(made)[1] == ("t001", "FAILED", "the objectives ['gain'] could not be measured")
