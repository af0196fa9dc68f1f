"""Requests are files that anybody may leave: what is none is passed over."""

import json
import os

import pytest

from orchestrator.records.requests.request_files import Request, leave, pending
from orchestrator.records.sweep_folder import SweepFolder


@pytest.fixture
def folder(tmp_path):
    inside = SweepFolder(tmp_path)
    leave(inside, Request("stop", "me@here", "t001", reason="why", id="5-sound"))
    return inside


def test_what_was_left_is_found_and_a_long_reason_cut(folder):
    leave(folder, Request("add", "me", None, {"a.b": 1}, "x" * 5000, id="6-long"))
    first, second = pending(folder)
    assert first == Request("stop", "me@here", "t001", reason="why", id="5-sound")
    assert (second.changes, second.reason) == ({"a.b": 1}, "x" * 2000)


@pytest.mark.parametrize("text", [
    "", "5", "[]", "{", "[" * 5000, "9" * 5000, '{"ask": "drop"}', '{"ask": ["stop"]}',
    '{"ask": "stop", "trial": 5}', '{"ask": "add", "trial": {}}',
    '{"ask": "stop", "who": {}}', '{"ask": "add", "changes": [1]}',
    '{"ask": "stop", "reason": "\\ud83d"}', '{"ask": "add", "changes": {"a": NaN}}',
    '{"ask": "add", "changes": {"a": 1e999}}',
    json.dumps({"ask": "stop", "who": "w" * 3000}), json.dumps({"ask": "stop"}) + " " * (1 << 20),
    '{"ask": "add", "changes": {"a": ' + "[" * 300 + "]" * 300 + "}}",
])  # fmt: skip
def test_what_is_no_request_is_passed_over(folder, text):
    (folder.requests / "1-odd.json").write_text(text)
    assert [request.id for request in pending(folder)] == ["5-sound"]


def test_what_is_no_file_is_passed_over(folder):
    (folder.requests / "1-folder.json").mkdir()
    os.mkfifo(folder.requests / "2-pipe.json")
    (folder.requests / "3-endless.json").symlink_to("/dev/zero")
    (folder.requests / "4-elsewhere.json").symlink_to(folder.requests / "5-sound.json")
    assert [request.id for request in pending(folder)] == ["5-sound"]
