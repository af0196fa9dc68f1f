"""Trials wait for one that learns the same, others go first, and no trial is learnt twice."""

from types import SimpleNamespace

import pytest

from orchestrator.executors.job import Job
from orchestrator.records.event_values import EarlyStop
from orchestrator.records.events import StageReported, TrialEnded
from orchestrator.sweep.deciding.admission import Admission
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.sweep.deciding.shared_work import SharedWork
from orchestrator.sweep.protocols import WAIT
from orchestrator.system.seals import Maker
from tests.made_up_sweep import answers, report

SEARCH = {"space": {"training.learning_rate": {"choice": [0.1, 0.2]},
                    "method.retention.strength": {"choice": [1.0, 2.0, 3.0]}},
          "searcher": "grid", "trials": 6}  # fmt: skip
METHOD = {"adapter": {"kind": "lora"}, "retention": {"kind": "ewc"}}


@pytest.fixture
def shared(ledgers):
    """What knows of shared work in a sweep whose pool has so many places."""

    def make(places, search=SEARCH):
        ledger = ledgers(search=search, method=METHOD)
        admission = Admission(ledger, Proposals(ledger, Budget(ledger)))
        admission.pool = SimpleNamespace(
            is_open=True, places=places, resources=[], release=lambda _: None,
            assign=lambda _: None, shut=lambda: None,
        )  # fmt: skip
        return ledger, admission, SharedWork(ledger, admission, {"base": "one"})

    return make


def start(ledger, admission):
    name = admission.next()
    if isinstance(name, str):
        admission.admit(Job(ledger.experiment_of(name), Maker("", name, ""), ledger.folder))
    return name


def learnt(ledger, name, **changes):
    ledger.record(StageReported(name, report(0, answers(0.5)), **changes))


def test_one_of_those_that_learn_the_same_goes_first_and_the_others_keep_their_places(shared):
    ledger, admission, _ = shared(4)
    assert [start(ledger, admission) for _ in range(4)] == ["base", "t001", WAIT, WAIT]
    # t002 and t003 have places of their own while they wait: nothing more is proposed.
    assert admission.waiting == ["t002", "t003"]
    admission.release("base")
    assert start(ledger, admission) == "t004", "of the other learning rate"
    learnt(ledger, "t001")
    assert start(ledger, admission) == "t002"
    assert start(ledger, admission) is WAIT, "all places are taken"


def test_where_the_one_that_goes_first_fails_another_does(shared):
    ledger, admission, _ = shared(3)
    assert [start(ledger, admission) for _ in range(3)] == ["base", "t001", WAIT]
    ledger.record(TrialEnded("t001", "FAILED", "it was killed"))
    admission.release("t001")
    assert start(ledger, admission) == "t002"
    assert start(ledger, admission) is WAIT
    admission.release("base")
    admission.release("t002")
    assert start(ledger, admission) == "t003", "nobody is left to wait for"


def test_settings_that_were_had_before_are_repeated_where_that_trial_is_whole(shared):
    ledger, admission, work = shared(9, search={**SEARCH, "searcher": "random"})
    names = [f"t{number:03d}" for number in range(1, 4)]
    for name, rate in zip(names, (0.1, 0.1, 0.2), strict=True):
        admission._proposals.propose(name, {"training.learning_rate": rate}, "random")
    assert work.repeats("t002") is None
    ledger.record(TrialEnded("t001", "STOPPED"))
    assert work.repeats("t002") is None
    ledger.record(TrialEnded("t001", "STOPPED", stop=EarlyStop(measure="gain")))
    assert work.repeats("t002").name == "t001"
    ledger.record(TrialEnded("t001", "COMPLETE"))
    assert work.repeats("t002").name == "t001"
    assert work.repeats("t003") is None


def test_what_was_learnt_twice_after_all_is_said_once(shared, recorder):
    ledger, admission, work = shared(9)
    for _ in range(3):
        start(ledger, admission)
    for name in ("t001", "t002", "t003"):
        work.note_learnt(name, report(0, answers(0.5)))
    [said] = [note for note in recorder.notes if "itself" in note]
    assert said.startswith("t002 has learnt mood itself, though t001 had")
