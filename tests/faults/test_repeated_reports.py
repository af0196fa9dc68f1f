"""A report that is delivered twice, late or after the end counts once."""

from dataclasses import replace

import pytest

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Finished, Ready, Reported
from tests.made_up_sweep import MadeUp, answers, report

SEARCH = {"space": {"method.adapter.r": {"choice": [2, 4]}}, "searcher": "grid", "trials": 2}


def sweep(folder, recorder, deliver):
    """Run a sweep whose reports are delivered by a function; its journal without times."""
    made = MadeUp(folder, recorder, search=SEARCH)
    while isinstance(job := made.driver.next_job(), Job):
        name = job.trial
        end = report(-1 if name == "base" else 0, answers(0.4 if name == "base" else 0.8, name))
        rung = replace(end, fraction=0.5, row=None, step=1, steps=2)
        for message in deliver(end if name == "base" else rung, end):
            made.driver.hear(name, message)
        made.driver.ended(name, error=False)
        # What was under way when the driver had ended the trial.
        made.driver.hear(name, Reported(end))
    made.driver.judgement.conclude()
    lines = [{k: v for k, v in line.items() if k not in {"time", "n", "sum"}}
             for line in made.journal.lines]  # fmt: skip
    made.journal.close()
    return lines


def once_each(rung, end):
    return [Reported(rung), Reported(end)]


OTHERWISE = {
    "twice": lambda rung, end: [Reported(rung), Reported(rung), Reported(end), Reported(end)],
    "again by a worker that starts anew": lambda rung, end: [
        Reported(rung), Ready(1, (rung,)), Reported(rung), Reported(end), Finished((rung, end)),
    ],
    "with the last message alone": lambda rung, end: [Finished((rung, end))],
}  # fmt: skip


@pytest.mark.parametrize("deliver", OTHERWISE.values(), ids=OTHERWISE)
def test_a_report_counts_once_however_often_it_comes(tmp_path, recorder, deliver):
    once = sweep(tmp_path / "once", recorder, once_each)
    assert sweep(tmp_path / "otherwise", recorder, deliver) == once
    assert sum(line["event"] == "stage_report" for line in once) == 5
