import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from orchestrator.records.errors import JournalError
from orchestrator.records.journal import Journal, SteadyClock, is_being_written
from orchestrator.records.journal_lines import read_journal, sealed
from orchestrator.records.stage_report import StageReport
from tests.journals import say


def test_lines_come_back_in_order_with_numbers_and_nan_as_null(tmp_path):
    with Journal(tmp_path / "s", clock=lambda: 12.5) as journal:
        say(journal, "sweep_opened", sweep="s")
        line = say(journal, "stage_report", report={"score": float("nan"), "row": (1.0, 0.5)})
    assert line == {
        "n": 1, "time": 12.5, "event": "stage_report", "report": {"score": None, "row": [1.0, 0.5]},
    }  # fmt: skip
    assert read_journal(tmp_path / "s")[1] == line


@pytest.mark.parametrize(
    "value", ["[" * 5000, "[" * 300 + "]" * 300, "9" * 5000], ids=["endless", "deep", "long"]
)
def test_a_line_that_python_cannot_follow_is_damaged(tmp_path, value):
    with Journal(tmp_path) as journal:
        say(journal, "sweep_opened")
    path = tmp_path / "journal.jsonl"
    line = f'{{"n":1,"time":1.0,"event":"trial_proposed","trial":"t001","overrides":{value}}}'
    before = path.read_bytes()[:-1]
    path.write_bytes(before + b"\n" + sealed(line.encode(), before) + b"\n")
    with pytest.raises(JournalError, match=r"line 2 is damaged .*orchestrate repair"):
        read_journal(tmp_path)
    with pytest.raises(JournalError, match="line 2 is damaged"):
        Journal(tmp_path)


def test_time_goes_on_where_the_machines_clock_is_set_back():
    wall, steady = [1000.0], [5.0]
    clock = SteadyClock(wall=lambda: wall[0], steady=lambda: steady[0])
    assert clock() == 1000.0
    wall[0], steady[0] = 1000.0 - 3600.0, 15.0
    assert clock() == 1010.0, "ten seconds have passed, whatever the wall says"
    wall[0], steady[0] = 2000.0, 16.0
    assert clock() == 2000.0, "forward it is followed"


def test_a_session_whose_clock_is_behind_writes_no_earlier_times(tmp_path):
    with Journal(tmp_path, clock=lambda: time.time() + 3600) as journal:
        ahead = say(journal, "sweep_opened")["time"]
    with Journal(tmp_path) as journal:
        assert journal.now() >= ahead
        assert ahead <= say(journal, "trial_proposed", trial="t001")["time"] < ahead + 60


def test_a_torn_last_line_is_dropped_and_the_journal_goes_on(tmp_path):
    with Journal(tmp_path) as journal:
        say(journal, "sweep_opened")
        say(journal, "trial_proposed", trial="t001")
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b'{"n":2,"time":1.0,"ev')
    assert len(read_journal(tmp_path)) == 2
    with Journal(tmp_path) as journal:
        assert [line["n"] for line in journal.lines] == [0, 1]
        say(journal, "trial_started", trial="t001", attempt=1)
    assert [line["event"] for line in read_journal(tmp_path)][-1] == "trial_started"


def test_every_prefix_of_the_bytes_is_readable(tmp_path):
    with Journal(tmp_path / "whole") as journal:
        say(journal, "sweep_opened")
        for number in range(3):
            say(journal, "stage_report", report={"step": number, "text": "ä"})
    content = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    (tmp_path / "cut").mkdir()
    for length in range(len(content) + 1):
        (tmp_path / "cut" / "journal.jsonl").write_bytes(content[:length])
        lines = read_journal(tmp_path / "cut")
        assert len(lines) == content[:length].count(b"\n")


def test_a_damaged_line_in_the_middle_is_refused_and_nothing_is_changed(tmp_path):
    with Journal(tmp_path) as journal:
        say(journal, "sweep_opened")
        say(journal, "b")
    path = tmp_path / "journal.jsonl"
    damaged = path.read_bytes().replace(b'"event":"sweep_opened"', b'"event":"sweep_opened')
    path.write_bytes(damaged)
    with pytest.raises(JournalError, match="line 1 is damaged"):
        Journal(tmp_path)
    assert path.read_bytes() == damaged


def test_missing_lines_are_noticed(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"n": 1, "event": "sweep_opened"}) + "\n")
    with pytest.raises(JournalError, match="carries the number 1, expected 0"):
        read_journal(tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    with Journal(tmp_path), pytest.raises(JournalError, match="Another process is running"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_whoever_only_looks_is_no_second_writer(tmp_path):
    """`report`, `ui` and `runs` lock a journal for a moment to see whether it is being written."""
    journal = tmp_path / "journal.jsonl"
    journal.touch()
    with journal.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        unlock = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        unlock.start()
        with Journal(tmp_path) as opened:
            assert say(opened, "sweep_opened")["n"] == 0
        unlock.join()


def test_a_second_writer_is_refused_at_once(tmp_path):
    with Journal(tmp_path):
        began = time.monotonic()
        with pytest.raises(JournalError, match="Another process is running"):
            Journal(tmp_path)
        assert time.monotonic() - began < 5


def _write_and_die(folder):
    journal = Journal(folder)
    for number in range(1000):
        say(journal, "sweep_opened", number=number)
        if number == 20:
            os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_appended_before_a_kill_is_there(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert [line["number"] for line in read_journal(tmp_path)] == list(range(21))
    with Journal(tmp_path) as journal:  # the lock died with its holder
        assert say(journal, "y")["n"] == 21


def test_storage_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="Set `storage` to a folder that you can write to"):
        Journal(tmp_path / "file" / "sweep")


def test_journal_says_whether_somebody_writes_it(tmp_path):
    assert not is_being_written(tmp_path / "none")
    with Journal(tmp_path) as journal:
        say(journal, "sweep_opened", sweep="x")
        assert is_being_written(tmp_path)
    assert not is_being_written(tmp_path)


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """A journal of four lines, and its path."""
    with Journal(tmp_path) as journal:
        say(journal, "sweep_opened", sweep="s")
        say(journal, "trial_proposed", trial="t001")
        say(journal, "stage_report", trial="t001", report={"score": 0.75, "losses": [0.5]})
        say(journal, "trial_ended", trial="t001", state="COMPLETE")
    return tmp_path / "journal.jsonl"


def with_line(path, number, line):
    lines = path.read_bytes().splitlines()
    lines[number] = line
    path.write_bytes(b"\n".join(lines) + b"\n")


def refused(path, match):
    """Both ways of opening it say the same, and change nothing."""
    before = path.read_bytes()
    for opening in (read_journal, Journal):
        with pytest.raises(JournalError, match=match):
            opening(path.parent)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", [b"5", b"[]", b"{}", b"null", b'"text"', b'{"n":2,"event":5}'])
def test_a_line_that_is_no_event_is_damage(written, line):
    with_line(written, 2, line)
    refused(written, "line 3 is damaged: it should be an object with an `event`, got")


def test_a_journal_that_begins_elsewhere_is_damaged(written):
    with_line(written, 0, b'{"n":0,"time":1.0,"event":"trial_ended","trial":"t001"}')
    refused(written, "line 1 should be `sweep_opened`, got `trial_ended`")


def test_every_digit_that_changes_is_noticed(written):
    whole = written.read_bytes()
    for at in [i for i, byte in enumerate(whole) if chr(byte).isdigit()]:
        other = b"1" if whole[at : at + 1] != b"1" else b"2"
        written.write_bytes(whole[:at] + other + whole[at + 1 :])
        with pytest.raises(JournalError):
            read_journal(written.parent)
    written.write_bytes(whole)
    assert len(read_journal(written.parent)) == 4


def test_a_line_of_another_journal_is_noticed(written, tmp_path):
    with Journal(tmp_path / "other") as journal:
        say(journal, "sweep_opened", sweep="other")
        say(journal, "trial_proposed", trial="t001")
    line = (tmp_path / "other" / "journal.jsonl").read_bytes().splitlines()[1]
    with_line(written, 1, line)
    refused(written, "line 2 is not as it was written, or not the one that followed line 1")


def test_a_journal_without_sums_is_read_and_continued(written):
    lines = read_journal(written.parent)
    written.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_journal(written.parent) == lines
    with Journal(written.parent) as journal:
        say(journal, "sweep_continued")
    assert [line["event"] for line in read_journal(written.parent)][-1] == "sweep_continued"
    with_line(written, 3, written.read_bytes().splitlines()[3].replace(b"COMPLETE", b"FAILED"))
    refused(written, "not the one that followed line 4")


# --- what is kept in memory ----------------------------------------------------------------------


def test_lines_are_read_again_from_the_file(written):
    whole = read_journal(written.parent)
    with Journal(written.parent) as journal:
        lines = journal.lines
        assert list(lines) == whole
        assert [lines[number] for number in range(-4, 4)] == [*whole, *whole]
        assert lines[1:] == whole[1:]
        assert lines[3:1:-1] == whole[3:1:-1]
        assert lines[4:] == []
        added = say(journal, "sweep_ended", champion=None)
        assert (lines[-1], len(lines)) == (added, 5)
    assert list(lines) == [*whole, added], "also once the journal is closed"


def test_lines_are_told_while_they_are_checked(written):
    told = []
    with Journal(written.parent, take=told.append) as journal:
        say(journal, "sweep_ended", champion=None)
    assert told == read_journal(written.parent)[:-1]
    with_line(written, 2, b"5")
    told.clear()
    with pytest.raises(JournalError, match="line 3 is damaged"):
        Journal(written.parent, take=told.append)
    assert [line["n"] for line in told] == [0, 1]


def test_the_last_line_of_an_event_is_found_by_trial(written):
    with Journal(written.parent) as journal:
        say(journal, "trial_proposed", trial="t002")
        lines = journal.lines
        assert lines.last("trial_proposed")["trial"] == "t002"
        assert lines.last("trial_proposed", "t001")["n"] == 1
        assert lines.last("trial_proposed", "t003") is None
        assert lines.last("sweep_ended") is None
        assert lines.as_they_are().last("trial_ended", "t001")["n"] == 3


def test_a_report_without_its_series_is_small():
    whole = StageReport("mood", 0, 4, 4, 1.0, 0.75, losses=(0.5,), per_example={"mood": (1.0,)})
    assert whole.without_series() == StageReport("mood", 0, 4, 4, 1.0, 0.75)
    assert whole.without_series(examples=True).per_example == {"mood": (1.0,)}
