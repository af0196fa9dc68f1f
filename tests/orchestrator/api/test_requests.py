"""Asking for trials: what is typed is read as a file would be, and what cannot be is refused."""

import pytest

from orchestrator.api.requests import ask_for_trial, ask_to_stop, changes_of
from orchestrator.records.requests.request_files import pending
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system.user_error import UserError
from tests.synthetic_sweeps import write_sweep


def test_settings_are_read_as_yaml_has_them():
    typed = ["method.adapter.r=8", "a.b = [1, x]", "c=no = yes", "training.learning_rate=1.0e-3"]
    assert changes_of(typed) == {
        "method.adapter.r": 8, "a.b": [1, "x"], "c": "no = yes", "training.learning_rate": 0.001,
    }  # fmt: skip


@pytest.mark.parametrize("typed", ["", "method.adapter.r", "=3"])
def test_what_is_no_setting_is_refused(typed):
    with pytest.raises(UserError, match="PATH=VALUE"):
        changes_of([typed])


def test_what_cannot_be_asked_is_refused_and_leaves_nothing(tmp_path):
    folder = write_sweep(tmp_path, "six", 6)
    for ask, why in (
        (lambda: ask_for_trial(folder, "t099", {}, ""), "No trial 't099'"),
        (lambda: ask_for_trial(folder, "t001", {"method.adapter.r": 0}, ""), "cannot be"),
        (lambda: ask_for_trial(folder, "t001", {"method.adapter.rr": 4}, ""), "cannot be"),
        (lambda: ask_for_trial(tmp_path / "none", None, {}, ""), "no sweep"),
        (lambda: ask_to_stop(folder, "t001", ""), "ended already"),
    ):
        with pytest.raises(UserError, match=why):
            ask()
    assert pending(SweepFolder(folder)) == []


def test_a_request_begins_with_the_trial_and_holds_the_changes(tmp_path):
    folder = write_sweep(tmp_path, "six", 6)
    ask_for_trial(folder, "t001", {"method.adapter.r": 32}, "a hunch")
    (found,) = pending(SweepFolder(folder))
    assert (found.ask, found.trial, found.changes) == ("add", "t001", {"method.adapter.r": 32})
    assert found.reason == "a hunch"
    assert "@" in found.who
