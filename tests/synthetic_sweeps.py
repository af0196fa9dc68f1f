"""Journals of sweeps that never ran, of any size, made of the project's own events.

Trials lie around a trade-off of gain and forgetting, some are stopped and some fail. Nothing is
fsynced: 10,000 trials are written in seconds.
"""

import json
import random

from orchestrator.measures.objectives import front
from orchestrator.records.event_values import EarlyStop
from orchestrator.records.events import (
    StageReported,
    SweepEnded,
    SweepOpened,
    TrialEnded,
    TrialProposed,
    TrialStarted,
)
from orchestrator.records.journal_lines import JOURNAL_NAME, sealed
from orchestrator.records.stage_report import StageReport
from orchestrator.system.strict_json import without_nan

TASKS = ("mood", "topic")
OBJECTIVES = {"gain": "max", "forgetting": "min", "probe_drift": "min"}
BEGUN = 1_790_000_000.0
HOSTILE = "<img src=x onerror=alert(1)>\"'`{{7*7}}</script><script>alert(2)</script>&amp;"
"""What a name or a value may hold, and a page must only ever show."""
EXAMPLES = 100


def experiment(name, trials):
    """The document of an experiment that searches kind, rank and learning rate."""
    return {
        "name": name,
        "model": {"name": "example/base-135m"},
        "tasks": list(TASKS),
        "probes": ["prose"],
        "method": {"adapter": {"kind": "lora", "r": 8}, "retention": {"kind": "none"}},
        "search": {
            "space": {
                "method.adapter.kind": {"choice": ["curlora", "lora"]},
                "method.adapter.r": {"choice": [4, 8, 16]},
                "training.learning_rate": {"log_uniform": [1e-4, 1e-2]},
            },
            "searcher": "tpe",
            "trials": max(1, trials),
        },
        "objectives": OBJECTIVES,
        "champion": {"maximize": "gain", "subject_to": {"probe_drift": 0.05}},
    }


class Writer:
    """Writes events as `Journal` does, without waiting for the disk."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL_NAME
        self.file = self.path.open("wb")
        self.before, self.n, self.now = b"", 0, BEGUN

    def say(self, event, after=1.0):
        self.now += after
        line = {"n": self.n, "time": round(self.now, 3), **event.to_line()}
        text = json.dumps(without_nan(line), separators=(",", ":")).encode()
        raw = sealed(text, self.before)
        self.file.write(raw + b"\n")
        self.before, self.n = raw, self.n + 1

    def close(self):
        self.file.close()


def answers(share, generator, count):
    return tuple(float(generator.random() < share) for _ in range(count))


def _report(index, row, *, seconds, kept, generator, drift=0.0):
    return StageReport(
        task=TASKS[index] if index >= 0 else "base", task_index=index, step=20, steps=20,
        fraction=1.0, score=row[index] if index >= 0 else float("nan"), loss=1.0 / (index + 2),
        losses=tuple(round(2.0 / (s + 1 + 3 * index) + 0.1 * generator.random(), 5)
                     for s in range(20)) if kept and index >= 0 else (),
        tokens=4000 * (index + 1), seconds=seconds, row=row,
        probes={"prose": {"cross_entropy": 3.0 + drift}},
        per_example={t: answers(p, generator, EXAMPLES) for t, p in zip(TASKS, row, strict=True)}
        if kept else None,
        examples=dict.fromkeys(TASKS, EXAMPLES),
    )  # fmt: skip


def _trial(writer, name, overrides, generator, *, wrong=None, kept=True):
    """Write a trial; gives its measures, None where it has none."""
    writer.say(TrialProposed(name, overrides, by="tpe"))
    writer.say(TrialStarted(name))
    strength = generator.random()
    first = 0.55 + 0.35 * strength + 0.03 * generator.gauss(0, 1)
    kept_of_first = first - 0.25 * strength**2 * generator.random() - 0.01 * generator.random()
    second = 0.5 + 0.4 * strength * generator.random()
    drift = 0.08 * strength * generator.random()
    rows = [(min(1.0, first), 0.5), (min(1.0, kept_of_first), min(1.0, second))]
    if wrong == "STOPPED":
        report = _report(0, rows[0], seconds=30.0, kept=False, generator=generator)
        writer.say(StageReported(name, report), after=30)
        stop = EarlyStop(task=TASKS[0], fraction=1.0, measure="gain", rival="t001",
                         difference=-0.1, interval=(-0.2, -0.05))  # fmt: skip
        writer.say(TrialEnded(name, "STOPPED", "behind beyond doubt", stop=stop))
        return None
    if wrong == "FAILED":
        writer.say(
            TrialEnded(name, "FAILED", f"out of memory {HOSTILE}", log=f"trials/{name}/log.txt")
        )
        return None
    for index, row in enumerate(rows):
        report = _report(index, row, seconds=30.0 * (index + 1), kept=kept, generator=generator,
                         drift=drift)  # fmt: skip
        writer.say(StageReported(name, report), after=30)
    accuracy = sum(rows[-1]) / 2
    measures = {
        "accuracy": accuracy, "gain": accuracy - 0.5,
        "forgetting": rows[0][0] - rows[1][0], "probe_drift": drift,
        "backward_transfer": rows[1][0] - rows[0][0], "cost_s": 60.0, "cost_tokens": 8000.0,
    }  # fmt: skip
    gain = measures["gain"]
    writer.say(
        TrialEnded(
            name, "COMPLETE", measures=measures, gain_interval=[gain - 0.06, gain + 0.06],
            intervals={"zero_shot": [gain - 0.06, gain + 0.06]},
            adapter=f"trials/{name}/adapter",
        )
    )  # fmt: skip
    return measures


def write_sweep(storage, name, trials, *, ended=True, hostile=False, seed=0, settings=0):
    """A sweep's journal.

    Args:
        storage: The folder to write in.
        name: The sweep's.
        trials: How many.
        ended: Whether it has a verdict.
        hostile: Whether names of the experiment and values are such as `HOSTILE`.
        seed: Of the made-up scores.
        settings: Further settings that each trial has.

    Returns:
        The sweep's folder.
    """
    generator = random.Random(seed)
    writer = Writer(storage / name)
    document = experiment(HOSTILE if hostile else name.replace(" ", "-"), trials)
    if hostile:
        document["model"] = {"name": HOSTILE}
        document["search"]["space"][f"method.adapter.{HOSTILE}"] = {"choice": ["a", "b"]}
    writer.say(
        SweepOpened(
            sweep=name, sweep_id=f"id-{name}-{seed}", experiment=document,
            yaml=f"name: {name}\n# {HOSTILE}\n",
            provenance={"base": {"name": "example/base-135m", "sha256": "b" * 64},
                        "data": {task: task[0] * 64 for task in TASKS},
                        "code": {"curlora": "0.1.0"}, "packages": {"torch": "2.13.0"}},
            controls={task: {"majority": 0.5, "chance": 0.5} for task in TASKS},
        )
    )  # fmt: skip
    if trials:
        writer.say(TrialProposed("base"))
        writer.say(TrialStarted("base"))
        report = _report(-1, (0.5, 0.5), seconds=5.0, kept=True, generator=generator)
        writer.say(StageReported("base", report), after=5)
        writer.say(TrialEnded("base", "COMPLETE"))
    measured = {}
    for number in range(1, trials + 1):
        trial = f"t{number:0{max(3, len(str(trials)))}d}"
        overrides = {
            "method.adapter.kind": HOSTILE
            if hostile and number % 2
            else generator.choice(["curlora", "lora"]),
            "method.adapter.r": generator.choice([4, 8, 16]),
            "training.learning_rate": 10 ** generator.uniform(-4, -2),
        }
        overrides |= {f"training.extra_{i:02d}": generator.random() for i in range(settings)}
        if hostile:
            overrides[f"method.adapter.{HOSTILE}"] = HOSTILE
        wrong = {3: "STOPPED", 5: "FAILED"}.get(number % 12)
        found = _trial(writer, trial, overrides, generator, wrong=wrong, kept=number <= 60)
        if found is not None:
            measured[trial] = found
    if ended and measured:
        _verdict(writer, measured)
    writer.close()
    return writer.path.parent


def _verdict(writer, measured):
    values = {name: {key: found[key] for key in OBJECTIVES} for name, found in measured.items()}
    # Those of the largest gain alone: comparing ten thousand with each other takes minutes.
    best = sorted(values, key=lambda name: -values[name]["gain"])
    on_front = front({name: values[name] for name in best[:400]}, OBJECTIVES)
    allowed = [name for name in best if values[name]["probe_drift"] <= 0.05]
    champion = allowed[0]
    if champion not in on_front:
        on_front.append(champion)
    gain = measured[champion]["gain"]
    writer.say(
        SweepEnded(
            front=on_front, champion=champion, reason="largest gain with probe_drift <= 0.05",
            compared=len(measured), intervals={champion: [gain - 0.08, gain + 0.08]},
            runner_up=next((name for name in allowed if name != champion), None),
            runner_up_interval=[-0.02, 0.04],
        )
    )  # fmt: skip
