"""What people ask of a running sweep is done once, journalled, and survives a crash in between."""

import pytest

from orchestrator.records.requests.request_files import Request, leave, pending
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.sweep.deciding import asked
from tests.made_up_sweep import MadeUp, answers

RANKS = {"method.adapter.r": {"choice": [2, 4, 8]}}
SEARCH = {"space": RANKS, "searcher": "random", "trials": 3}


@pytest.fixture(autouse=True)
def looks_always(monkeypatch):
    monkeypatch.setattr(asked, "LOOKS_SECONDS", 0.0)


@pytest.fixture
def sweep(tmp_path, recorder):
    def make():
        return MadeUp(tmp_path / "made-up", recorder, search=SEARCH)

    return make


def scores(name, overrides):
    return answers(0.4 if name == "base" else 0.8, seed=name)


def state(made):
    return SweepState.of(made.journal.lines)


def test_a_trial_like_another_is_added_beside_those_of_the_search(sweep, recorder):
    made = sweep()
    folder = SweepFolder(made.journal.folder)

    def then(name, overrides):
        if name == "t001":
            changes = {"training.learning_rate": 0.0123}
            leave(folder, Request("add", "me@here", "t001", changes, "a hunch"))
        return scores(name, overrides)

    made.run(then)
    view = state(made)
    (added,) = [trial for trial in view.trials if trial.is_asked_for]
    assert added.overrides == {
        **view.trial("t001").overrides, "training.learning_rate": 0.0123,
    }  # fmt: skip
    assert added.state == "COMPLETE"
    assert len(view.searched) == 4
    (taken,) = recorder.events("request_taken")
    assert (taken["about"], taken["who"], taken["reason"]) == (added.name, "me@here", "a hunch")
    assert not pending(folder)
    said = f"does not learn of {added.name}: it sets training.learning_rate, which the search does"
    assert any(said in note for note in recorder.notes)


@pytest.mark.parametrize("again", [False, True])
def test_the_searcher_learns_of_a_trial_that_is_added(sweep, recorder, monkeypatch, again):
    from orchestrator.sweep.proposing.search import Proposer

    told = []
    tell = Proposer.tell
    monkeypatch.setattr(
        Proposer, "tell", lambda self, name, *rest: told.append(name) or tell(self, name, *rest)
    )
    made = sweep()
    leave(SweepFolder(made.journal.folder), Request("add", "me", None, {"method.adapter.r": 4}))
    if again:  # the driver that took it up dies before it runs
        made.driver.next_job()
        made.journal.close()
        made = sweep()
    made.run(scores)
    (added,) = [trial for trial in state(made).trials if trial.is_asked_for]
    assert added.name in told
    assert len(told) == len(set(told)) == 4
    assert not any("does not learn" in note for note in recorder.notes)
    assert len(state(made).searched) == 4


def test_a_trial_that_waits_is_stopped_with_the_reason(sweep):
    made = sweep()
    driver, folder = made.driver, SweepFolder(made.journal.folder)
    name = driver.proposals.next() and driver.proposals.next()
    driver.admission.waiting += ["base", name]
    leave(folder, Request("stop", "me@here", name, reason="it leads nowhere"))
    made.run(scores)
    assert state(made).trial(name).state == "STOPPED"
    assert state(made).trial(name).reason == "stopped by me@here: it leads nowhere"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request("stop", "me", "base"), "untouched base"),
        (Request("stop", "me", "t999"), "no trial 't999'"),
        (Request("add", "me", "t999"), "no trial 't999'"),
        (Request("add", "me", None, {"method.adapter.r": 0}), "method"),
        (Request("add", "me", None, {"nonsense": 1}), "nonsense"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_the_sweep_goes_on(
    sweep, recorder, request_, why
):
    made = sweep()
    leave(SweepFolder(made.journal.folder), request_)
    verdict = made.run(scores)
    (taken,) = recorder.events("request_taken")
    assert why in taken["refused"]
    assert verdict["event"] == "sweep_ended"
    assert len(state(made).searched) == 3


def test_a_request_is_taken_up_once_whenever_the_driver_dies(sweep, tmp_path):
    made = sweep()
    folder = SweepFolder(made.journal.folder)
    request = Request("add", "me", None, {"method.adapter.r": 16})
    # Proposed, and the driver died before it could say that the request was taken up.
    made.driver.proposals.next()
    made.driver.proposals.propose("t001", request.changes, f"request {request.id}")
    leave(folder, request)
    made.journal.close()
    made = sweep()
    made.driver.next_job()
    made.journal.close()
    # Taken up, and the driver died before it could remove the file.
    leave(folder, request)
    made = sweep()
    made.run(scores)
    assert len([trial for trial in state(made).trials if trial.is_asked_for]) == 1
    assert not pending(folder)


def test_a_stop_that_was_journalled_holds_after_a_crash(sweep):
    made = sweep()
    job = made.driver.next_job()
    while job.trial == "base":
        job = made.driver.next_job()
    leave(SweepFolder(made.journal.folder), Request("stop", "me", job.trial))
    made.driver.next_job()
    assert made.driver.stops(job.trial)
    made.journal.close()
    made = sweep()
    assert state(made).trial(job.trial).state == "STOPPED"
    made.journal.close()


def test_files_that_are_no_requests_are_left(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.requests.mkdir()
    for number, text in enumerate(["", "[]", '{"ask": "rm"}', '"x"', "\x00"]):
        (folder.requests / f"{number}.json").write_text(text)
    assert pending(folder) == []
