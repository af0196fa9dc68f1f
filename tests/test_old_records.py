"""Journals and logged models of earlier versions still open: `benchmarks/example_record.py`.

Nothing here may name a module within the packages: it is what outsiders use that has to stay.
"""

import json
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import orchestrator
from orchestrator.cli import app

RECORDS = Path(__file__).parent / "records"
CLOSE = {"rel": 1e-3}
"""In fp32 another processor rounds otherwise."""


@pytest.fixture(params=sorted(p.parent.name for p in RECORDS.glob("*/example.yaml")))
def old(request, tmp_path, monkeypatch, empty_database) -> Path:
    """A copy of a record, in which the command then runs."""
    folder = tmp_path / "record"
    shutil.copytree(RECORDS / request.param, folder)
    shutil.copyfile(empty_database, folder / "storage" / "mlflow.db")
    monkeypatch.chdir(folder)
    return folder


def command(*words):
    """What a command that must do its work says, on standard output and beside it."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result


def journal(folder):
    text = (folder / "storage/example/journal.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answers(folder):
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


def test_an_old_sweep_is_listed_and_shown(old):
    [listed] = json.loads(command("runs", "list", "--storage", "storage", "--json").stdout)
    assert listed["sweep"] == "example"
    trials = command("runs", "list", "example", "--storage", "storage", "--csv").stdout.splitlines()
    assert len(trials) == 1 + 3
    shown = command("runs", "show", "example", "--storage", "storage").stdout
    verdict = next(line for line in journal(old) if line["event"] == "sweep_ended")
    assert f"Champion {verdict['champion']}: largest gain" in shown
    one = command("runs", "show", "example", "t001", "--storage", "storage").stdout
    assert "replay" in one


@pytest.mark.slow
def test_an_old_sweep_is_known_to_be_finished(old):
    """The same command, from wherever base and data are now."""
    before = journal(old)
    said = command("sweep", "example.yaml").output
    assert "this sweep is finished; nothing is left to run" in said
    assert journal(old) == before


@pytest.mark.slow
def test_an_old_sweep_that_was_cut_short_goes_on(old):
    """What had ended is not run again, and what is proposed next is what was proposed then."""
    before = journal(old)
    cut = next(n for n, line in enumerate(before) if line.get("trial") == "t003")
    file = old / "storage/example/journal.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:cut]) + "\n")
    shutil.rmtree(old / "storage/example/trials/t003")
    command("sweep", "example.yaml")
    now = journal(old)
    assert now[:cut] == before[:cut]
    assert now[cut]["event"] == "sweep_continued"
    rest = [line for line in now[cut:] if line.get("trial") in {"t001", "t002", "base"}]
    assert [line["event"] for line in rest] in ([], ["champion_registered"])
    [then], [again] = (
        [line for line in lines if line["event"] == "trial_proposed" and line["trial"] == "t003"]
        for lines in (before, now)
    )
    assert again["overrides"] == pytest.approx(then["overrides"])
    [ended] = [line for line in now if line["event"] == "trial_ended" and line["trial"] == "t003"]
    assert ended["state"] == "COMPLETE"
    assert any(line["event"] == "sweep_ended" for line in now)


def test_an_old_adapter_answers_as_it_did(old):
    [verdict] = [line for line in journal(old) if line["event"] == "sweep_ended"]
    model = orchestrator.load(f"example/{verdict['champion']}", "storage", base="base")
    for task, rows in answers(old).items():
        asked = [{"text": row["text"]} for row in rows]
        for row, answer in zip(rows, model.predict(task, asked), strict=True):
            assert answer.label == row["label"]
            assert answer.probability == pytest.approx(row["probability"], **CLOSE)


def test_an_old_logged_model_answers_as_it_did(old):
    """By the module that its `MLmodel` names as the loader, which may have moved since."""
    described = old / "model/MLmodel"
    document = yaml.safe_load(described.read_text())
    assert document["flavors"]["python_function"]["loader_module"]
    # Where the base is now. MLflow hands `load_model(model_config=...)` on only to models that were
    # logged with a configuration, which these were not.
    document["flavors"]["python_function"]["config"] = {"base": str(old / "base")}
    described.write_text(yaml.safe_dump(document))
    model = mlflow.pyfunc.load_model(str(old / "model"))
    for task, rows in answers(old).items():
        asked = pd.DataFrame({"text": [row["text"] for row in rows]})
        found = model.predict(asked, params={"task": task}).to_dict("records")
        for row, answer in zip(rows, found, strict=True):
            assert answer.pop("label") == row["label"]
            expected = {k: v for k, v in row.items() if k not in {"text", "label"}}
            assert answer == pytest.approx(expected, **CLOSE)
