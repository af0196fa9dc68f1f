"""A made-up sweep: its trials score what they are told to, without a model."""

import random

from orchestrator.data.prepared import PreparedTask
from orchestrator.executors.job import Job
from orchestrator.executors.messages import Reported
from orchestrator.records.journal import Journal
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.task_files import parse_task
from orchestrator.sweep.driver import Driver
from tests.journals import say

TASK = "mood"
EXAMPLES = 60


def spec():
    return parse_task(
        {"name": TASK, "kind": "classification", "data": {"files": "."}, "prompt": "{text}",
         "labels": {"no": " no", "yes": " yes"}},
        "mood.yaml",
    )  # fmt: skip


def experiment(**changes):
    document = {
        "name": "made-up", "model": {"name": "m"}, "tasks": [TASK],
        "method": {"adapter": {"kind": "lora"}}, "objectives": {"gain": "max"},
        "champion": {"maximize": "gain", "subject_to": {}},
    }  # fmt: skip
    return Experiment.model_validate(document | changes)


def answers(share, seed=0):
    generator = random.Random(seed)
    return tuple(float(generator.random() < share) for _ in range(EXAMPLES))


def report(index, scores):
    return StageReport(
        task=TASK, task_index=index, step=1, steps=1, fraction=1.0, score=sum(scores) / EXAMPLES,
        row=(sum(scores) / EXAMPLES,), probes={}, per_example={TASK: scores}, losses=(1.0,),
    )  # fmt: skip


def made_up_data(**changes):
    """An experiment over one task, and data of which only the labels are known."""
    task = PreparedTask(TASK, spec(), (), (), (), ("no", "yes"), {"majority_label": "no"})
    own = experiment(**changes)
    loaded = LoadedExperiment(experiment=own, tasks={TASK: spec()}, text="", origin="made-up")
    fields = {"tasks": {TASK: task}, "controls": {TASK: {}}, "hashes": {TASK: "data"}}
    return loaded, type("Data", (), fields)()


def opened_journal(folder):
    """The journal of a made-up sweep, opened if it is new."""
    journal = Journal(folder)
    if not len(journal.lines):
        say(journal, "sweep_opened", sweep="made-up", experiment={}, provenance={})
    return journal


class MadeUp:
    """A driver of a sweep whose trials score what they are told to."""

    def __init__(self, folder, recorder, **changes):
        self.loaded, self.data = made_up_data(**changes)
        self.journal = opened_journal(folder)
        self.driver = Driver(self.loaded, self.journal, recorder, self.data)

    def run(self, scores, *, then=lambda driver: None):
        """Run all trials; `scores` gives those of a trial by its name and overrides.

        `then` is called with the driver once the verdict is made. Gives the verdict.
        """
        while isinstance(job := self.driver.next_job(), Job):
            name = job.trial
            trial = self.driver.trials[name]
            found = report(-1 if name == "base" else 0, scores(name, trial.overrides))
            self.driver.hear(name, Reported(found))
            self.driver.ended(name, error=False)
        self.driver.judgement.conclude()
        verdict = self.journal.lines[-1]
        then(self.driver)
        self.journal.close()
        return verdict

    def proposed(self):
        return {
            line["trial"]: line for line in self.journal.lines if line["event"] == "trial_proposed"
        }
