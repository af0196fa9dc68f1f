"""What runs at a time never needs more than there is, and nothing that fits is held back."""

import random
from types import SimpleNamespace

import pytest

from orchestrator.executors.job import Job
from orchestrator.records.events import TrialEnded
from orchestrator.sweep.deciding.admission import Admission
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.sweep.protocols import WAIT, Capacity
from orchestrator.system.seals import Maker

WORKERS = {"space": {"training.learning_rate": {"choice": [0.1, 0.2, 0.3]},
                     "resources.workers": {"choice": [2, 1]}},
           "searcher": "grid", "trials": 6}  # fmt: skip


@pytest.fixture
def admissions(ledgers):
    """Makes what admits trials to a machine of so many CPUs."""

    def make(cpus, **changes):
        ledger = ledgers(**{"search": WORKERS, **changes})
        made = Admission(ledger, Proposals(ledger, Budget(ledger)))
        made.capacity = Capacity(cpus=cpus)
        return ledger, made

    return make


def started(ledger, admission):
    """The next trial, which runs from now on; or what is said in its place."""
    name = admission.next()
    if isinstance(name, str):
        admission.admit(Job(ledger.experiment_of(name), Maker("", name, ""), ledger.folder))
    return name


def test_a_trial_that_does_not_fit_lets_one_other_go_first(admissions):
    ledger, admission = admissions(2)
    assert [started(ledger, admission) for _ in range(2)] == ["base", "t002"]
    assert admission.waiting == ["t001"]
    assert started(ledger, admission) is WAIT
    admission.release("base")
    admission.release("t002")
    assert started(ledger, admission) == "t001"


@pytest.mark.parametrize("seed", range(5))
def test_what_runs_fits_and_all_have_their_turn(admissions, seed):
    generator = random.Random(seed)
    ledger, admission = admissions(generator.randint(2, 4))
    admission.capacity = Capacity(cpus=admission.capacity.cpus, trials=3)
    begun = []
    while (name := started(ledger, admission)) is not None:
        if name is not WAIT:
            begun.append(name)
        running = [*admission.running]
        assert admission.capacity.holds([*admission.running.values()])
        assert len(running) <= 3
        assert running, "something that waits can always start on an empty machine"
        if name is WAIT or generator.random() < 0.3:
            admission.release(generator.choice(running))
    assert sorted(begun) == ["base", *(f"t{n:03d}" for n in range(1, 7))]


def test_with_a_scheduler_nothing_starts_before_row_0_is_known(admissions, reported):
    ledger, admission = admissions(8)
    admission.scheduled = True
    assert [started(ledger, admission) for _ in range(2)] == ["base", WAIT]
    reported(ledger, "base")
    ledger.record(TrialEnded("base", "COMPLETE"))
    admission.release("base")
    assert started(ledger, admission) == "t001"


def test_trials_that_were_begun_in_an_earlier_session_wait(admissions, ledgers):
    ledger, admission = admissions(8)
    for _ in range(2):
        started(ledger, admission)
    again = ledgers(search=WORKERS)
    assert Admission(again, Proposals(again, Budget(again))).waiting == ["base", "t001"]


def test_the_first_word_of_the_pool_is_told_once(admissions, recorder):
    ledger, admission = admissions(4)
    pool = SimpleNamespace(is_open=False, places=2, resources=[], release=lambda _: None)
    pool.open, pool.assign = lambda: None, lambda _: 0
    admission.pool = pool
    assert started(ledger, admission) == "base"
    assert recorder.notes.count("the pool has started") == 0
    for _ in range(2):
        admission.heard("base")
    assert recorder.notes.count("the pool has started") == 1
