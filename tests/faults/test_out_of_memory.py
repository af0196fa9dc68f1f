"""Memory that does not suffice in one trial: it fails with that reason, and the others go on.

In the pool passes are made smaller first: `executors/pool/test_packed_trials.py` and
`test_member.py` there.
"""

import pytest
import torch
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.engines.plain import PlainEngine
from orchestrator.executors import local
from orchestrator.executors.local import run_locally
from orchestrator.records.journal_lines import read_journal

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
ALPHAS = [1.0, 2.0, 3.0, 4.0]


@pytest.mark.usefixtures("records")
def test_a_trial_that_runs_out_of_memory_fails_alone_wherever_it_does(
    experiment_file, tmp_path, monkeypatch
):
    now = []

    def full_in(trial, place, name):
        really = getattr(place, name)

        def call(*given, **named):
            if now[-1] == trial:
                raise torch.OutOfMemoryError(FULL)
            return really(*given, **named)

        monkeypatch.setattr(place, name, call)

    def run(job, *rest):
        now.append(job.trial)
        run_locally(job, *rest)

    full_in("t002", PlainEngine, "train_step")
    full_in("t003", local, "adapted_model")
    full_in("t004", PlainEngine, "log_probabilities")
    monkeypatch.setattr("orchestrator.sweep.locally.run_locally", run)
    path = experiment_file(
        tasks=["mood"], probes=[], objectives={"gain": "max"}, resources={"executor": "local"},
        champion={"maximize": "gain", "subject_to": {}},
        search={"space": {"method.adapter.alpha": {"choice": ALPHAS}}, "searcher": "grid",
                "trials": 4},
        data={"train_examples": 16, "validation_examples": 8, "rung_examples": 4},
    )  # fmt: skip
    result = CliRunner().invoke(app, ["sweep", str(path)])
    assert result.exit_code == 0, result.output
    lines = read_journal(tmp_path / "runs" / "tiny")
    ends = {x["trial"]: x for x in lines if x["event"] == "trial_ended"}
    states = {name: end["state"] for name, end in ends.items()}
    assert states == {
        "base": "COMPLETE", "t001": "COMPLETE", "t002": "FAILED", "t003": "FAILED",
        "t004": "FAILED",
    }  # fmt: skip
    for name in ("t002", "t003", "t004"):
        assert FULL in ends[name]["reason"]
        log = (tmp_path / "runs" / "tiny" / ends[name]["log"]).read_text()
        assert "OutOfMemoryError" in log, "what it was doing"
