"""What the code computes is what is recorded: `benchmarks/same_results.py`, its float64 part."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.record_differences import differences, worth_keeping
from benchmarks.same_results import documents, keep_all_digits, record, uncovered, written
from benchmarks.sweep_record import VARIES, normalised
from orchestrator.cli import app

RECORD = Path(__file__).parent / "records" / "local.json"
ANEW = """
Where a change of what is computed or journalled is meant, write the record anew:
  .venv/bin/python -m benchmarks.same_results --write /tmp/now.json --part local
  .venv/bin/python -m benchmarks.same_results --extract /tmp/now.json tests/records/local.json
"""


@pytest.mark.slow
def test_every_method_computes_what_it_did_when_the_record_was_written():
    """Losses, scores, probes, proposals, verdicts and every field of every event."""
    old = json.loads(RECORD.read_text())
    now = worth_keeping(record(["local"], tracked=False))
    found = differences(old, now, tolerance=1e-9)
    assert not found, "\n".join([f"{len(found)} differences:", *found[:20], ANEW])


def test_the_record_has_a_champion_and_trials_that_all_ended_well():
    """Else it would hold the code to little."""
    sweeps = json.loads(RECORD.read_text())["local"]["sweeps"]
    assert sweeps["words"]["verdict"]["champion"]
    for name, document in documents("local", Path("/")).items():
        events = sweeps[name]["events"]
        assert len(events) == document["search"]["trials"] + 2  # the base, and the sweep's own
        ends = [line for trial in events for line in events[trial] if "state" in line]
        assert {line["state"] for line in ends} == {"COMPLETE"}
        assert all(line["losses"] for trial in events for line in events[trial] if "losses" in line)


def test_every_preset_adapter_and_retention_is_run():
    listed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert uncovered(listed) == []
    listed["presets"].append({"name": "new", "method": "lora"})
    listed["retentions"].append({"kind": "hold"})
    assert uncovered(listed) == ["new", "hold"]


def test_a_difference_is_found_wherever_it_is():
    old = {"a": [1.0, {"b": 2.0}], "c": "x", "d": None}
    assert differences(old, json.loads(json.dumps(old))) == []
    assert differences(old, {**old, "c": "y"}) == ["c: 'x' -> 'y'"]
    assert differences(old, {**old, "d": 0}) == ["d: None -> 0"]
    assert differences(old, {**old, "e": 1}) == ["e: nothing -> 1"]
    assert differences(old, {**old, "a": [1.0]}) == [
        "a: 2 entries [1.0, {'b': 2.0}] -> 1 entries [1.0]"
    ]
    last_bit = {**old, "a": [1.0, {"b": 2.0000000000000004}]}
    assert differences(old, last_bit) == ["a/1/b: 2.0 -> 2.0000000000000004"]
    assert differences(old, last_bit, tolerance=1e-9) == []
    assert differences(old, {**old, "a": [1.00000001, {"b": 2.0}]}, tolerance=1e-9) != []
    assert differences([float("nan"), 1], [float("nan"), 1.0]) == ["1: 1 -> 1.0"]


def test_what_varies_by_run_is_left_out_and_nothing_else():
    document = {
        "time": 1.5, "seconds": None, "losses": [0.1], "metrics": {"cost_s": [[0, 1.5]]},
        "storage": "/tmp/x/runs", "tags": {"orchestrator.versions": "{}", "run": "0" * 32},
    }  # fmt: skip
    assert normalised(document, Path("/tmp/x")) == {
        "time": VARIES, "seconds": None, "losses": [0.1], "metrics": {"cost_s": VARIES},
        "storage": "<root>/runs", "tags": {"orchestrator.versions": VARIES, "run": "<id>"},
    }  # fmt: skip


def test_a_record_reads_back_as_the_same_bits():
    document = {"a": {"b": [0.1 + 0.2, 1e-300, None, "é"]}, "c": [{"d": 1}]}
    assert differences(json.loads(written(document)), document) == []


def test_a_rounding_of_another_name_is_said(monkeypatch):
    monkeypatch.setattr("benchmarks.same_results.ROUNDING", "seven_" + "digits")
    with pytest.raises(RuntimeError, match="names `seven_digits`"):
        keep_all_digits()
