"""Journals of sweeps that never ran, of any size, made of the project's own events.

A trial has three tasks of 100 validation examples, a report with losses at the end of each, 50
measures, and all settings of a method and its training (some 50); 7 KB of journal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.event import Event
from orchestrator.records.event_values import Finalist
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
from orchestrator.spec.experiment import Experiment
from orchestrator.system.strict_json import without_nan

TASKS = ("movie_sentiment", "text_source", "product_sentiment")
EXAMPLES = 100
STEPS = 20
FURTHER_MEASURES = tuple(f"measure_{n:02d}" for n in range(50 - len(NATURAL_DIRECTIONS)))
BEGUN = 1_790_000_000.0
SECONDS_PER_LINE = 2.0


def experiment(name: str, trials: int) -> dict[str, Any]:
    """The experiment of a synthetic sweep, as a journal holds it."""
    document = {
        "name": name, "model": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "tasks": list(TASKS), "method": {"adapter": {"kind": "curlora"}},
        "search": {
            "space": {
                "method.adapter.kind": {"choice": ["curlora", "lora"]},
                "method.adapter.r": {"choice": [4, 8, 16]},
                "training.learning_rate": {"log_uniform": [1e-4, 3e-2]},
            },
            "trials": trials,
        },
        "objectives": {"gain": "max", "forgetting": "min"},
        "champion": {"maximize": "gain", "subject_to": {}},
    }  # fmt: skip
    return Experiment.model_validate(document).model_dump(mode="json")


def _report(chance: random.Random, index: int, scores: list[float]) -> StageReport:
    last = index == len(TASKS) - 1
    examples = {
        task: tuple(float(chance.random() < score) for _ in range(EXAMPLES))
        for task, score in zip(TASKS, scores, strict=True)
    }
    return StageReport(
        task=TASKS[index] if index >= 0 else "", task_index=index, step=STEPS, steps=STEPS,
        fraction=1.0, score=scores[max(index, 0)], loss=0.7, learning_rate=0.01,
        losses=tuple(round(chance.uniform(0.2, 2), 6) for _ in range(STEPS)) if index >= 0 else (),
        learning_rates=(0.01,) * STEPS if index >= 0 else (), tokens=4000 * (index + 1),
        seconds=20.0 * (index + 1), row=tuple(scores), probes={},
        metrics={
            task: {"accuracy": score, "f1_macro": score - 0.01}
            for task, score in zip(TASKS, scores, strict=True)
        },
        per_example=examples if last or index < 0 else None,
        examples=dict.fromkeys(TASKS, EXAMPLES),
    )  # fmt: skip


def trial_events(name: str, chance: random.Random) -> Iterator[Event]:
    """What a journal holds of one trial that is proposed, learns all tasks, and ends."""
    yield TrialProposed(
        name,
        {
            "method.adapter.kind": chance.choice(["curlora", "lora"]),
            "method.adapter.r": chance.choice([4, 8, 16]),
            "training.learning_rate": chance.uniform(1e-4, 3e-2),
        },
        by="tpe",
    )
    yield TrialStarted(name, 1, {"torch": "2.13.0", "python": "3.11.9"})
    if chance.random() < 0.03:
        yield TrialEnded(
            name, "FAILED", "the loss is not a number at step 3", log=f"{name}/log.txt"
        )
        return
    scores = [0.3, 0.3, 0.3]
    for index in range(len(TASKS)):
        scores[index] = chance.uniform(0.4, 0.9)
        yield StageReported(name, _report(chance, index, list(scores)))
    gain = sum(scores) / len(TASKS) - 0.3
    measures = {measure: chance.uniform(0, 1) for measure in NATURAL_DIRECTIONS}
    measures |= {"gain": gain, "accuracy": gain + 0.3, "forgetting": chance.uniform(-0.05, 0.3)}
    measures |= {measure: chance.random() for measure in FURTHER_MEASURES}
    yield TrialEnded(
        name, "COMPLETE", "", measures, [gain - 0.05, gain + 0.05],
        {"zero_shot": [gain - 0.05, gain + 0.05], "majority": [0.1, 0.2], "head_only": None},
        adapter=f"trials/{name}/adapter", adapter_sha256="0" * 64,
    )  # fmt: skip


def sweep_events(
    name: str, trials: int, *, seed: int = 0, ended: bool = True, begun: float = BEGUN
) -> Iterator[Event]:
    """What the journal of a synthetic sweep holds.

    Args:
        name: The sweep's.
        trials: How many it has.
        seed: Of what they score.
        ended: Whether there is a verdict.
        begun: Part of its identity, which no other sweep shares.

    Yields:
        Events, without number and time.
    """
    chance = random.Random(seed)
    yield SweepOpened(
        sweep=name, sweep_id=f"{name}-{seed}-{begun:.0f}", experiment=experiment(name, trials),
        yaml=f"name: {name}\n", origin=f"{name}.yaml",
        provenance={"base": {"sha256": "a" * 64}, "python": "3.11.9"},
        controls={
            task: {"majority": 0.3, "chance": 0.3, "validation_examples": EXAMPLES}
            for task in TASKS
        },
    )  # fmt: skip
    yield TrialProposed("base", by="control")
    yield TrialStarted("base")
    yield StageReported("base", _report(chance, -1, [0.3, 0.3, 0.3]))
    yield TrialEnded("base", "COMPLETE")
    found: list[tuple[float, float, str]] = []
    for number in range(1, trials + 1):
        for event in trial_events(f"t{number:03d}", chance):
            yield event
            if isinstance(event, TrialEnded) and event.measures:
                found.append(
                    (event.measures["gain"] or 0, event.measures["forgetting"] or 0, event.trial)
                )
    if not ended:
        return
    front: list[str] = []
    least = float("inf")
    for _, forgetting, trial in sorted(found, reverse=True):
        if forgetting < least:
            least = forgetting
            front.append(trial)
    yield SweepEnded(
        front, front[0] if front else None, "the largest gain",
        (Finalist(front[0]),) if front else (), compared=trials,
    )  # fmt: skip


def lines(events: Iterator[Event], begun: float = BEGUN) -> Iterator[bytes]:
    """The lines of a journal of some events, as `Journal.append` writes them."""
    before = b""
    for n, event in enumerate(events):
        time = round(begun + SECONDS_PER_LINE * n, 3)
        stamped = {"n": n, "time": time, **event.to_line()}
        text = json.dumps(without_nan(stamped), allow_nan=False, separators=(",", ":")).encode()
        before = sealed(text, before)
        yield before + b"\n"


def write_sweep(
    storage: Path, name: str, trials: int, *, seed: int = 0, ended: bool = True
) -> Path:
    """Write the journal of a synthetic sweep.

    Args:
        storage: The storage folder; made when missing.
        name: The sweep's.
        trials: How many it has.
        seed: Of what they score.
        ended: Whether there is a verdict.

    Returns:
        The sweep's folder.
    """
    folder = storage / name
    folder.mkdir(parents=True)
    begun = BEGUN + 10_000 * seed
    with (folder / JOURNAL_NAME).open("wb") as file:
        file.writelines(
            lines(sweep_events(name, trials, seed=seed, ended=ended, begun=begun), begun)
        )
    return folder
