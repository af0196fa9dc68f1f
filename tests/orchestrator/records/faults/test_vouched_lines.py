import json

import pytest

from orchestrator.records.faults.vouched_lines import vouched_lines
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import read_journal
from tests.journals import say


@pytest.fixture
def whole(tmp_path):
    """The bytes of a journal of six lines, and the lines."""
    with Journal(tmp_path) as journal:
        say(journal, "sweep_opened", sweep="s")
        for number in range(5):
            say(journal, "stage_report", trial="t001", report={"step": number})
    return (tmp_path / "journal.jsonl").read_bytes(), read_journal(tmp_path)


def joined(lines):
    return b"\n".join(lines) + b"\n"


def test_whatever_line_is_changed_all_others_are_found(whole):
    content, lines = whole
    raw = content.splitlines()
    for at in range(len(raw)):
        damaged = joined([*raw[:at], raw[at].replace(b'"time":', b'"time":1'), *raw[at + 1 :]])
        found = vouched_lines(damaged)
        # Nothing vouches for the last line but the one before it.
        lost = (at, len(raw) - 1) if at == len(raw) - 2 else (at,)
        assert found.lost == lost
        assert list(found.lines.values()) == [line for line in lines if line["n"] not in lost]


@pytest.mark.parametrize("order", [[0, 2, 1, 3, 4, 5], [0, 1, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
def test_lines_that_were_swapped_or_doubled_are_all_found(whole, order):
    content, lines = whole
    raw = content.splitlines()
    found = vouched_lines(joined([raw[i] for i in order]))
    assert (list(found.lines.values()), found.lost) == (lines, ())


def test_deleted_lines_are_counted_and_those_around_them_kept(whole):
    content, lines = whole
    raw = content.splitlines()
    found = vouched_lines(joined([*raw[:2], *raw[4:]]))
    assert found.lost == (2, 3)
    assert list(found.lines) == [0, 1, 4, 5]
    assert found.lines[5] == lines[5]


def test_two_changed_neighbours_are_lost_and_nothing_else(whole):
    content, _ = whole
    raw = content.splitlines()
    raw[2:4] = [b"5", b'{"n":3,"event":"stage_report"']
    assert vouched_lines(joined(raw)).lost == (2, 3)


def test_a_journal_without_sums_keeps_what_stands_in_its_place(whole):
    _, lines = whole
    raw = [json.dumps(line).encode() for line in lines]
    raw[3] = b"{"
    assert vouched_lines(joined(raw)).lost == (3,)
