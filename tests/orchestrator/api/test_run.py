"""Sweeps from Python, from an experiment to a model that answers."""

import logging
import os
import re
from pathlib import Path

import pytest

import orchestrator
from orchestrator.records.journal_lines import read_journal
from orchestrator.system.user_error import UserError
from orchestrator.system.yaml_file import read_yaml

ROOT = Path(__file__).parents[3]
LOCAL = {"executor": "local"}
pytestmark = pytest.mark.usefixtures("records")


def cells(path):
    """The code of each cell of a notebook in the percent format."""
    parts = re.split(r"^# %%(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        (title.strip(), code)
        for title, code in zip(parts[1::2], parts[2::2], strict=True)
        if "[markdown]" not in title
    ]


@pytest.fixture
def level():
    """What a notebook does to the level of our logger ends with the test."""
    logger = logging.getLogger("orchestrator")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.mark.usefixtures("level")
def test_the_notebook_runs_from_its_first_cell_to_its_last(experiment_file, search, records):
    """Its parameters are those of a tiny sweep in this process."""
    path = experiment_file(search=search | {"trials": 2}, resources=LOCAL)
    names = {}
    for title, code in cells(ROOT / "docs" / "notebook.py"):
        exec(compile(code, "docs/notebook.py", "exec"), names)
        if "parameters" in title:
            names |= {"FILE": str(path), "STORAGE": str(records)}
    sweep = names["sweep"]
    assert list(sweep.trials.index) == ["t001", "t002"]
    assert (sweep.folder / "report" / "index.html").is_file()
    assert names["matrix"].shape == (3, 2)
    assert names["answer"].label in {"positive", "negative"}
    assert read_journal(sweep.folder)[0]["yaml"] == path.read_text()


def test_an_experiment_made_in_python_goes_on_from_that_of_its_file(
    experiment_file, records, monkeypatch
):
    path = experiment_file(resources=LOCAL, tasks=["mood"], probes=[], objectives={"gain": "max"},
                           champion={"subject_to": {}})  # fmt: skip
    first = orchestrator.run_sweep(path)
    monkeypatch.chdir(path.parent)
    experiment = orchestrator.Experiment.model_validate(read_yaml(path, ValueError))
    again = orchestrator.run_sweep(experiment, storage=os.path.relpath(records))
    assert again.folder == first.folder == records / "tiny-run"
    assert again.trials.equals(first.trials)
    assert len(read_journal(again.folder)) == len(read_journal(first.folder))


def test_what_is_wrong_with_an_experiment_is_said_as_for_a_file(experiment_file, monkeypatch):
    path = experiment_file(resources=LOCAL)
    document = read_yaml(path, ValueError)
    experiment = orchestrator.Experiment.model_validate(document | {"tasks": ["moods"]})
    monkeypatch.chdir(path.parent)
    with pytest.raises(UserError, match="mood"):
        orchestrator.run_sweep(experiment)
    with pytest.raises(UserError, match="not-there"):
        orchestrator.run_sweep("not-there.yaml")
