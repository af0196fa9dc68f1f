"""Trials that sleep, for `benchmarks.scale`: a member of the pool that computes nothing.

The member is an actor of its own in the place of the pool's; the driver, its mailboxes and desks,
the journal, the searcher, early stopping and MLflow are those of every sweep. A trial learns two
tasks, reports four times at equal distances, and leaves the checkpoint and the adapter of a tiny
model, which are sealed, copied and hashed as any others are.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from orchestrator.executors.desk import Admission, Desk, Heard
from orchestrator.executors.job import Job, MemberConfig
from orchestrator.executors.messages import Finished, Message, Ready, Reported, Todo
from orchestrator.executors.pool import member_actors
from orchestrator.executors.task_adapters import TaskAdapters
from orchestrator.loop.task_sequence import Start
from orchestrator.loop.trial_checkpoints import keep_checkpoint
from orchestrator.loop.trial_state import TrialState, write_state
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.sections import ResourceSpec
from orchestrator.system.pulse import Pulse, passed, pulse
from orchestrator.system.seals import seal

TASKS = ("first", "second")
FRACTIONS = (0.5, 1.0)
EXAMPLES = 200
"""Validation examples of each task."""
STEPS = 32
BASE_SCORE = 0.5
TURN_SECONDS = 0.1
"""How often a member goes to its desk; as a real one does."""


def stage_report(trial: str, index: int, fraction: float) -> StageReport:
    """What a trial reports, the same whenever it is asked; index -1: the untouched base."""
    chance = random.Random(f"{trial}/{index}/{fraction}")
    shares = [BASE_SCORE, BASE_SCORE]
    for learnt in range(index + 1):
        shares[learnt] = random.Random(f"{trial}/{learnt}").uniform(0.35, 0.5)
    examples = {
        task: tuple(float(chance.random() < share) for _ in range(EXAMPLES))
        for task, share in zip(TASKS, shares, strict=True)
    }
    row = tuple(sum(scores) / EXAMPLES for scores in examples.values())
    whole, steps = fraction == 1.0, STEPS // len(FRACTIONS) if index >= 0 else 0
    return StageReport(
        task=TASKS[index] if index >= 0 else "", task_index=index,
        step=int(STEPS * fraction) if index >= 0 else 0, steps=STEPS if index >= 0 else 0,
        fraction=fraction, score=row[max(index, 0)], loss=1.0, learning_rate=0.001,
        losses=tuple(round(chance.uniform(0.2, 2.0), 6) for _ in range(steps)),
        learning_rates=(0.001,) * steps, tokens=4000 * (index + 1), seconds=15.0 * (index + 1),
        row=row if whole else None, probes={},
        metrics={task: {"accuracy": score} for task, score in zip(TASKS, row, strict=True)},
        per_example=examples if whole else {TASKS[index]: examples[TASKS[index]]},
        examples=dict.fromkeys(TASKS if whole else [TASKS[index]], EXAMPLES),
    )  # fmt: skip


class SleepingTrial:
    """One trial: when it says what."""

    def __init__(self, job: Job, seconds: float, template: Path) -> None:
        """Begin to sleep.

        Args:
            job: The trial's.
            seconds: How long it takes.
            template: What its checkpoints are copies of.
        """
        self._job, self._template = job, template
        places = [(i, f) for i in range(len(TASKS)) for f in FRACTIONS]
        if job.trial == BASE_TRIAL:
            places, seconds = [(-1, 1.0)], 0.1
        began = time.monotonic()
        each = seconds / len(places)
        self._due = [(began + each * (n + 1), *place) for n, place in enumerate(places)]
        self._reports: list[StageReport] = []

    def say(self) -> Iterator[Message]:
        """What there is to say now; a `Finished` at last."""
        while self._due and time.monotonic() >= self._due[0][0]:
            _, index, fraction = self._due.pop(0)
            report = stage_report(self._job.trial, index, fraction)
            self._reports.append(report)
            saved = index >= 0 and fraction == 1.0
            yield Reported(report, self._save(report) if saved else None)
            if not self._due:
                checkpoint = self._job.folder.checkpoint(self._job.trial)
                reports = tuple(self._reports) if index >= 0 else ()
                yield Finished(reports, checkpoint if index >= 0 else None)

    def _save(self, report: StageReport) -> Path:
        job, kept = self._job, self._job.folder.checkpoint(self._job.trial)
        fresh = kept.with_name("checkpoint.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(self._template, fresh)
        seal(fresh / "adapter", job.maker)
        adapters = TaskAdapters(job.folder, job.trial, job.experiment)
        if adapters.wanted(report):
            adapters.keep(fresh / "adapter", report)
        rows = [(BASE_SCORE,) * 2, *(r.row for r in self._reports if r.row is not None)]
        matrix = AccuracyMatrix(TASKS, tuple(rows), (False, False))
        write_state(fresh, TrialState(matrix, Start(), tuple(self._reports)))
        keep_checkpoint(fresh, kept, job.maker)
        return kept


class SleepingMember:
    """A member of the pool whose trials sleep; meets the driver as `LoneMember` does."""

    def __init__(self, seconds: float, template: str) -> None:
        """Begin without trials.

        Args:
            seconds: How long each trial takes.
            template: The folder that checkpoints are copies of.
        """
        self._desk, self._seconds, self._template = Desk(), seconds, Path(template)

    def serve(self, config: MemberConfig, deaths: int) -> str | None:
        """Hold as many trials as a member has slots, until the driver says that it is the end."""
        del deaths
        slots = int(config.experiment["resources"]["slots"])
        trials: dict[str, SleepingTrial] = {}
        said: list[tuple[str, Message]] = []
        while True:
            todo = self._desk.exchange(str(os.getpid()), said, slots - len(trials))
            said = []
            if todo.close:
                return None
            for name in todo.drop:
                trials.pop(name, None)
            for job in todo.join:
                trials[job.trial] = SleepingTrial(job, self._seconds, self._template)
                said.append((job.trial, Ready(os.getpid())))
            for name, trial in list(trials.items()):
                for message in trial.say():
                    said.append((name, message))
                    if isinstance(message, Finished):
                        del trials[name]
            passed()
            time.sleep(TURN_SECONDS)

    @ray.method(concurrency_group="mail")
    def swap(self, todo: Todo, known: str, admission: Admission | None = None) -> Heard:
        """Meet the driver."""
        now: Pulse = pulse()
        self._desk.beat(now)
        return self._desk.swap(todo, known, admission)


def in_place_of_members(seconds: float, template: Path) -> None:
    """Let the pools of this process have members whose trials sleep so long."""

    def sleeping(resources: ResourceSpec, avoid: Sequence[str]) -> Any:
        del avoid
        options: dict[str, Any] = {
            "num_cpus": resources.cpus_per_worker, "max_restarts": 0,
            "concurrency_groups": member_actors.MAIL,
        }  # fmt: skip
        return ray.remote(**options)(SleepingMember).remote(seconds, str(template))

    made: Callable[..., Any] = sleeping
    member_actors.lone_member = made


def prepare(root: Path) -> None:
    """Make up the base, the tasks, and the checkpoint that every trial leaves a copy of.

    Args:
        root: A folder; `base`, `tasks`, `data` and `template` are made in it.
    """
    import curlora
    from orchestrator.base.loading import load_base
    from orchestrator.engines.plain import PlainEngine
    from orchestrator.spec.sections import ModelSpec, TrainingSpec
    from tests.tiny import write_base

    base = write_base(root / "base")
    (root / "tasks").mkdir()
    for name in TASKS:
        folder, chance = root / "data" / name, random.Random(name)
        folder.mkdir(parents=True)
        for split, count in (("train", 64), ("validation", EXAMPLES), ("test", 32)):
            words = [chance.choice(["good", "bad"]) for _ in range(count)]
            rows = [
                {
                    "text": f"{word} film {split} {number}",
                    "label": "yes" if word == "good" else "no",
                }
                for number, word in enumerate(words)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        (root / "tasks" / f"{name}.yaml").write_text(
            f"name: {name}\nkind: classification\ndata: {{files: ../data/{name}}}\n"
            "prompt: 'text : {text} label :'\nlabels: {'yes': ' positive', 'no': ' negative'}\n",
            encoding="utf-8",
        )
    model = load_base(ModelSpec(name=str(base)), "fp32", "cpu")
    adapted = curlora.attach(model, "lora", {"r": 4, "target_modules": ["q_proj"]}, seed=0)
    engine = PlainEngine(adapted, TrainingSpec(precision="fp32"))
    engine.save(root / "template", with_optimizer=False)
    engine.save_adapter(root / "template" / "adapter")
