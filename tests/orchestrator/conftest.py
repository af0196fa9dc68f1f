"""A synthetic journal for the tests of everything that shows one."""

import os
import random
from pathlib import Path

import pytest

from orchestrator.spec.experiment import Experiment

TASKS = ["movie_sentiment", "text_source", "product_sentiment"]
BEST = "largest gain (+0.200) among the 2 that keep probe_drift <= 0.05"
CHROMIUM = "/usr/bin/chromium"
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


class Random(random.Random):
    """Scores of a made-up sweep."""

    def outcomes(self, tasks, share, count=20):
        return {task: [float(self.random() < share) for _ in range(count)] for task in tasks}


def synthetic_sweep(
    trials=4,
    tasks=3,
    *,
    failing=(),
    unmeasured=(),
    ended=True,
    repeats=0,
    steps=8,
    tested=False,
    **opening,
):
    """The journal of a sweep with losses, scores of examples and all controls.

    `failing` are numbers of trials, `unmeasured` indices of tasks whose base score is not known;
    `tested` adds a reading of the test data.
    """
    chance, names = Random(0), [f"task{i}" for i in range(tasks)]
    story = Story()
    story.lines.clear()
    document = Experiment.model_validate(
        Story().lines[0]["experiment"] | {"name": "made-up", "tasks": names}
    ).model_dump(mode="json")
    story.add("sweep_opened", **{
        "sweep": "made-up", "kind": "sweep", "experiment": document, "yaml": "name: made-up\n",
        "tasks": {name: {"kind": "classification", "metric": "accuracy"} for name in names},
        "origin": "made-up.yaml", "provenance": {"base": {"sha256": "a" * 64}},
        "controls": {
            name: {"majority": 0.5, "chance": 0.5, "validation_examples": 20,
                   "label_counts": {"yes": 10, "no": 10}, "overlaps_removed": 2,
                   "rows": {"train": 99}, "origins": {"train": "train of the source"}}
            for name in names
        },
        **opening,
    })  # fmt: skip
    zero_shot = [None if i in unmeasured else 0.25 for i in range(tasks)]
    story.start("base")
    story.add("stage_report", trial="base", report={
        "task": "", "task_index": -1, "step": 0, "steps": 0, "fraction": 1.0, "row": zero_shot,
        "per_example": chance.outcomes(names, 0.25), "losses": [],
        "head_only": {name: {"accuracy": 0.4375} for name in names},
    })  # fmt: skip
    story.end("base", "COMPLETE")
    gains = {}
    for number in range(1, trials + 1):
        trial = f"t{number:03d}"
        kind = {"method.adapter.kind": chance.choice(["curlora", "lora"])}
        story.start(trial, **kind, **{"training.learning_rate": chance.uniform(1e-4, 1e-2)})
        if number in failing:
            story.end(trial, "FAILED", reason="the loss ran away")
            continue
        for index, name in enumerate(names):
            row = [chance.uniform(0.3, 0.9) if i <= index else zero_shot[i] for i in range(tasks)]
            story.add("stage_report", trial=trial, report={
                "task": name, "task_index": index, "step": steps, "steps": steps, "fraction": 1.0,
                "row": row, "losses": [2.0 / (i + 1) for i in range(steps)], "score": row[index],
                "per_example": chance.outcomes(names, 0.7) if index == tasks - 1 else None,
            })  # fmt: skip
        gain = None if unmeasured else sum(row) / tasks - 0.25
        gains[trial] = -1.0 if gain is None else gain
        story.add(
            "trial_ended", trial=trial, state="COMPLETE", reason="", log=None,
            measures={"gain": gain, "accuracy": sum(row) / tasks, "cost_s": 60.0 + number,
                      "forgetting": chance.uniform(-0.1, 0.3), "probe_drift": chance.random()},
            gain_interval=None if gain is None else [gain - 0.125, gain + 0.125],
            intervals={"zero_shot": None, "majority": [0.0625, 0.3125], "head_only": [-0.1, 0.1]},
            adapter=f"trials/{trial}/adapter",
        )  # fmt: skip
    if not ended:
        return story.lines
    best = max(gains, key=gains.__getitem__, default=None)
    second = next((name for name in gains if name != best), None)
    again = [f"t{trials + i:03d}" for i in range(1, repeats + 1)]
    for seed, trial in enumerate(again, 1):
        story.add("trial_proposed", trial=trial, overrides={"training.seed": seed},
                  by="fresh seed", of=best)  # fmt: skip
        story.end(trial, "COMPLETE", 0.25)
    finalists = [{"trial": best, "repeats": again, "mean": {"gain": 0.3125},
                  "spread": {"gain": 0.0625}}]  # fmt: skip
    story.add(
        "sweep_ended", front=[best] if best else [], champion=best,
        reason="largest gain" if best else "no trial finished",
        finalists=finalists if repeats else [],
        **({"compared": trials, "runner_up": second, "runner_up_interval": [-0.1, 0.2]}
           if tested else {}),
    )  # fmt: skip
    if tested:
        story.add("test_read", **made_up_reading(best, names, second))
    return story.lines


def made_up_reading(champion, tasks, runner_up, number=1):
    """A reading of the test data in which the champion scores 0.6 and the base 0.25."""
    rows = {"base": 0.25, runner_up: 0.55, champion: 0.6}
    return {
        "reading": number, "purpose": "once the verdict was made", "champion": champion,
        "runner_up": runner_up, "examples": dict.fromkeys(tasks, 10), "unread": {},
        "sides": {name: {"row": [score] * len(tasks), "metrics": {}, "per_example": {}}
                  for name, score in rows.items()},
        "reference": "the untouched base",
        "controls": {"majority": [0.5] * len(tasks), "head_only": [0.4375] * len(tasks)},
        "accuracy": {champion: 0.6, runner_up: 0.55}, "gain": {champion: 0.35, runner_up: 0.3},
        "gain_intervals": {champion: [0.2, 0.5], runner_up: [0.1, 0.4]},
        "intervals": {champion: {"zero_shot": [0.2, 0.5], "majority": [-0.05, 0.25],
                                 "head_only": [0.0, 0.3]}},
        "runner_up_interval": [-0.1, 0.2],
    }  # fmt: skip


@pytest.fixture
def new_sweep():
    """Makes the journal of a made-up sweep, see `synthetic_sweep`."""
    return synthetic_sweep


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, without a window."""
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield made
        made.close()
