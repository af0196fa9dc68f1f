"""The layout of a sweep's folder, and the names of sweeps in a storage folder."""

import json
from pathlib import Path

import pytest

from orchestrator.records.errors import JournalError
from orchestrator.records.sweep_folder import SweepFolder, sweep_folder
from orchestrator.records.trial_record import TrialRecord

FOLDER = SweepFolder(Path("/runs/demo"))


def begun(storage, folder, name):
    """A sweep of a name in a folder."""
    place = SweepFolder(storage / folder)
    place.path.mkdir(parents=True)
    place.journal.write_text(json.dumps({"experiment": {"name": name}}) + "\n", encoding="utf-8")


def test_sweeps_of_earlier_versions_are_found_where_they_were():
    found = {
        place.relative_to("/runs/demo").as_posix()
        for place in (
            FOLDER.journal, FOLDER.report, FOLDER.members, FOLDER.readings,
            FOLDER.adapter("t001"), FOLDER.log("t001"), FOLDER.progress("t001"),
            FOLDER.work("t001"), FOLDER.checkpoint("t001"),
        )
    }  # fmt: skip
    assert found == {
        "journal.jsonl", "report", "ray/members", "ray/test",
        "trials/t001/adapter", "trials/t001/log.txt", "trials/t001/progress.json",
        "ray/t001", "ray/t001/checkpoint",
    }  # fmt: skip


@pytest.mark.parametrize("named", ["/etc/passwd", "../other/trials/t001", "trials/../../t001"])
def test_a_journal_names_nothing_outside_of_its_folder(named):
    with pytest.raises(JournalError, match="does not lie in the sweep's folder"):
        FOLDER.within(named)


def test_what_is_journalled_of_a_path_is_read_back_wherever_the_folder_is():
    written = FOLDER.relative(FOLDER.log("t001"))
    moved = SweepFolder(Path("/elsewhere/demo"))
    assert moved.within(written) == moved.log("t001")
    assert FOLDER.relative(Path("/var/log.txt")) == "/var/log.txt"


def test_a_log_that_was_journalled_by_its_old_place_is_looked_for_in_the_folder():
    assert FOLDER.written_log(TrialRecord("t001")) == FOLDER.log("t001")
    own = TrialRecord("t001", log="trials/t001/other.txt")
    assert FOLDER.written_log(own) == FOLDER.path / "trials/t001/other.txt"
    old = TrialRecord("t001", log="/before/demo/trials/t001/log.txt")
    assert FOLDER.written_log(old) == FOLDER.log("t001")


def test_another_sweep_takes_the_next_number_and_never_a_folder_of_another_name(tmp_path):
    assert sweep_folder(tmp_path, "demo", new=False) == tmp_path / "demo"
    begun(tmp_path, "demo", "demo")
    begun(tmp_path, "demo-2", "demo-2")  # a sweep that is itself named so
    assert sweep_folder(tmp_path, "demo", new=False) == tmp_path / "demo"
    assert sweep_folder(tmp_path, "demo", new=True) == tmp_path / "demo-3"
