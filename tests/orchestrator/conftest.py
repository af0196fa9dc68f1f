"""A synthetic journal for the tests of everything that shows one."""

import pytest

from orchestrator.experiment import Experiment

TASKS = ["movie_sentiment", "text_source", "product_sentiment"]
BEST = "largest gain (+0.200) among the 2 that keep probe_drift <= 0.05"
NOBODY = "no method beats the untouched base: even the largest gain is +0.200"


def experiment(**changes):
    document = {
        "name": "demo",
        "model": {"name": "m"},
        "tasks": TASKS,
        "probes": ["python_docs"],
        "method": {"adapter": {"kind": "curlora"}},
        "search": {
            "space": {
                "method.adapter.kind": {"choice": ["curlora", "lora"]},
                "method.adapter.r": {"choice": [4, 8]},
                "training.learning_rate": {"log_uniform": [1e-4, 3e-2]},
            },
            "trials": 4,
        },
    }
    return Experiment.model_validate(document | changes).model_dump(mode="json")


class Story:
    """A synthetic journal; every line is 10 s after the one before."""

    def __init__(self, **changes):
        self.lines = []
        self.add(
            "sweep_opened",
            sweep="demo",
            kind="sweep",
            experiment=experiment(**changes),
            tasks={},
            yaml="",
            origin="demo.yaml",
            provenance={},
            controls={
                t: {"majority": 0.52, "chance": 0.5, "validation_examples": 100} for t in TASKS
            },
        )
        self.start("base")
        self.report("base", -1, 1.0, row=[0.55, 0.3, None])
        self.end("base", "COMPLETE")

    def add(self, event, **fields):
        n = len(self.lines)
        self.lines.append({"n": n, "time": 1000.0 + 10 * n, "event": event, **fields})

    def start(self, trial, **overrides):
        self.add("trial_proposed", trial=trial, overrides=overrides, by="tpe")
        self.add("trial_started", trial=trial, attempt=1)

    def report(self, trial, index, fraction, row=None):
        report = {"task": TASKS[index] if index >= 0 else "", "task_index": index, "step": 4}
        report |= {"steps": 8, "fraction": fraction, "score": 0.61, "loss": 0.7, "row": row}
        report |= {"probes": {"python_docs": {"cross_entropy": 3.3}}, "per_example": {"a": [1]}}
        self.add("stage_report", trial=trial, report=report)

    def end(self, trial, state, gain=None, reason="", adapter=None):
        measures = {} if gain is None else {"gain": gain, "accuracy": 0.7, "cost_s": 93.4}
        interval = None if gain is None else [gain - 0.08, gain + 0.07]
        self.add(
            "trial_ended", trial=trial, state=state, reason=reason, measures=measures,
            gain_interval=interval, adapter=adapter, log=f"trials/{trial}/log.txt",
        )  # fmt: skip

    def complete(self, trial, gain, **overrides):
        self.start(trial, **overrides)
        for index in range(3):
            self.report(trial, index, 0.25)
            self.report(trial, index, 1.0, row=[0.7 - 0.02 * index, 0.5 + 0.1 * index, 0.6])
        self.end(trial, "COMPLETE", gain, adapter=f"trials/{trial}/adapter")


@pytest.fixture
def story():
    story = Story()
    story.start("t001", **{"method.adapter.kind": "curlora"})
    story.end("t001", "FAILED", reason="loss is not a number at step 3")
    story.complete("t002", 0.12, **{"method.adapter.kind": "lora", "method.adapter.r": 8})
    story.complete("t003", 0.2, **{"method.adapter.r": 4, "training.learning_rate": 0.002})
    return story


@pytest.fixture
def with_champion(story):
    story.start("t004")
    story.end("t004", "STOPPED", reason="dominated")
    story.add("sweep_ended", front=["t002", "t003"], champion="t003", reason=BEST)
    story.add("champion_registered", trial="t003", model="demo", version="1")
    return story.lines


@pytest.fixture
def new_story():
    """Makes a story of its own: `new_story(**changes of the experiment)`."""
    return Story
