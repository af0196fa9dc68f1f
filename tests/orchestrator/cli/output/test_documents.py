"""What programs get of all trials is what a whole journal says, read by the index alone."""

import json

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cli.output.documents import outcome_document, trial_row
from orchestrator.records import journal_lines
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.index.index import open_index
from orchestrator.system.strict_json import without_nan
from tests import written_journals


@pytest.fixture
def storage(tmp_path, new_sweep):
    # More than are held at once, some of them failed, and scored on a task of another sweep.
    lines = new_sweep(trials=7, failing=[3], repeats=1, tested=True)
    lines.append({"time": 9999.0, "event": "cells_scored", "trial": "t002", "learnt": 3,
                  "tasks": {"elsewhere": {"kind": "classification"}},
                  "scores": {"elsewhere": {"value": 0.5, "examples": 4, "metrics": {},
                                           "per_example": [1, 0, 1, 0]}}})  # fmt: skip
    made = tmp_path / "runs"
    written_journals.write(made, "demo", lines)
    written_journals.write(made, "other", new_sweep(trials=2, ended=False))
    open_index(made).close()
    return made


def printed(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("at_once", [2, 500])
def test_the_document_of_a_sweep_is_that_of_its_whole_journal(storage, monkeypatch, at_once):
    from orchestrator.cli import console
    from orchestrator.cli.output import documents

    monkeypatch.setattr(documents, "_AT_ONCE", at_once)
    monkeypatch.setattr(console, "_AT_ONCE", at_once)
    for sweep in ("demo", "other"):
        folder = storage / sweep
        wanted = json.loads(json.dumps(without_nan(outcome_document(read_journal(folder), folder))))
        assert printed("runs", "show", sweep, "--storage", storage, "--json") == wanted
        assert wanted["trials"]
    rows = printed("runs", "list", "--filter", "state != FAILED", "--sort", "-gain", "--json",
                   "--storage", storage)  # fmt: skip
    assert {row["sweep"] for row in rows} == {"demo", "other"}
    for row in rows:
        folder = storage / row.pop("sweep")
        view = SweepState.of(read_journal(folder))
        own = trial_row(view, view.trial(row["trial"]), folder)
        assert row == json.loads(json.dumps(without_nan(own)))
    assert printed("runs", "list", "demo", "--filter", "gain > 9", "--json",
                   "--storage", storage) == []  # fmt: skip


def test_documents_of_all_trials_cost_no_reading_of_the_journal(storage, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the journal is read")

    monkeypatch.setattr(journal_lines, "read_journal", refuse)
    from orchestrator.cli.output import documents

    monkeypatch.setattr(documents.SweepState, "of", refuse)
    assert len(printed("runs", "list", "--json", "--storage", storage, "--filter", "gain > 0")) > 2


def test_a_storage_folder_that_has_moved_has_its_documents_places(storage):
    moved = storage.rename(storage.with_name("moved"))
    rows = printed("runs", "show", "demo", "--storage", moved, "--json")["trials"]
    assert rows[0]["adapter"] == str(moved / "demo" / "trials" / "t001" / "adapter")
    assert rows[0]["log"].startswith(str(moved))


@pytest.mark.parametrize("at_once", [2, 1000])
def test_all_trials_as_csv_are_those_of_a_page(storage, monkeypatch, at_once):
    from orchestrator.cli.listing import printing

    monkeypatch.setattr(printing, "_AT_ONCE", at_once)
    for words in (["demo"], ["demo", "other", "--sort", "-gain"], ["--filter", "gain > 0.1"],
                  ["--columns", "overrides,champion,screened,gain,gain"]):  # fmt: skip
        asked = ["runs", "list", *words, "--csv", "--storage", storage]
        whole = CliRunner().invoke(app, [str(word) for word in asked])
        paged = CliRunner().invoke(app, [str(word) for word in [*asked, "--limit", "1000"]])
        assert whole.exit_code == 0, whole.output
        assert whole.stdout_bytes == paged.stdout_bytes
        assert whole.stdout_bytes.count(b"\r\n") > 3
    refused = CliRunner().invoke(app, ["runs", "list", "--csv", "--filter", "gian > 0",
                                       "--storage", str(storage)])  # fmt: skip
    assert "Did you mean 'gain'?" in refused.output
