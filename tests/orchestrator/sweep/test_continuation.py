"""A sweep that goes on records what it goes on with, and says what is not as it was."""

from orchestrator.records.journal import Journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.sweep.continuation import continuation
from tests.journals import say
from tests.made_up_sweep import MadeUp, opened_journal


def made_with(torch, python="3.11.9"):
    """The provenance of a start of a sweep."""
    return {
        "base": {"name": "m", "sha256": "a" * 64}, "code": {"version": "0.1.0", "commit": None},
        "packages": {"torch": torch, "peft": "0.20.0"}, "python": python, "platform": "Linux",
    }  # fmt: skip


def test_other_packages_are_said_and_recorded(tmp_path, recorder):
    before, after = made_with("2.13.0"), made_with("2.14.0", python="3.12.1")
    with Journal(tmp_path / "sweep") as journal:
        say(journal, "sweep_opened", sweep="sweep", sweep_id="5e8a", provenance=before)

        def go_on(provenance):
            state = SweepState.of(journal.lines)
            journal.append(continuation(state, recorder, provenance, [], search=None))
            return journal.lines[-1]

        go_on(before)
        assert recorder.notes == []
        line = go_on(after)
        assert recorder.notes == [
            "not as before: torch 2.13.0 -> 2.14.0, python 3.11.9 -> 3.12.1; each trial's record "
            "says what it was made with"
        ]
        assert {key: line[key] for key in after} == after
        go_on(after)
        assert len(recorder.notes) == 1, "compared with the last start, not with the first"


def test_a_trial_is_recorded_with_the_packages_of_the_start_that_made_it(tmp_path, recorder):
    with opened_journal(tmp_path / "sweep") as journal:
        say(journal, "sweep_continued", packages={"torch": "2.14.0"}, python="3.12.1")
    made_up = MadeUp(tmp_path / "sweep", recorder)
    made_up.driver.next_job()
    made_up.journal.close()
    [started] = recorder.events("trial_started")
    assert started["versions"] == {"torch": "2.14.0", "python": "3.12.1"}
