"""What a file asks for: the values of a plan, and the machine that it is made for."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.base.devices import Device
from orchestrator.base.facts import BaseFacts
from orchestrator.planning.method_sizes import AdapterFacts, MethodFacts
from orchestrator.planning.shared_steps import SharedSteps
from orchestrator.planning.speed import Speed


@dataclass(frozen=True)
class Machine:
    """Where the trials will run."""

    cpus: float
    gpus: float
    memory: int | None
    """Bytes that are free now, None when that is unknown."""
    disk: int | None
    """Free bytes where sweeps are kept."""
    here: bool = True
    """Whether it is this machine, so that its speed can be measured."""
    devices: tuple[Device, ...] = ()
    """Everything that trials compute with; empty where none is there yet."""


@dataclass(frozen=True)
class TaskFacts:
    """How much of one task is learnt and scored."""

    name: str
    probe: bool
    train_examples: int
    train_tokens: int
    train_scored: int
    """Training tokens whose logits are computed, in one epoch."""
    validation_examples: int
    validation_tokens: int
    validation_scored: int
    rung_share: float
    """Share of the validation examples that is scored at a rung."""
    screen_share: float
    """Share of them that is scored after a task while a sweep searches."""
    steps: int
    """Optimiser steps, over all epochs."""


@dataclass(frozen=True)
class Plan:
    """What a file asks for."""

    name: str
    kind: str
    trials: int
    """Repetitions of finalists included."""
    repeated_trials: int
    compared_trials: int
    """Beside which an extension is read, included as well."""
    extends: str | None
    """The trial of another sweep that trials go on from, whose tasks they do not learn."""
    left_out: str | None
    """What of the search will not be tried because `trials` is smaller, in words."""
    bounded: str | None
    """What of the search a budget will leave out, in words."""
    tasks: list[TaskFacts]
    tokens_from: str
    """Where the token counts come from: "tokenizer", or the estimate in words."""
    epochs: int
    precision: str
    """In which numbers, in words; where the machine decides, with the reason."""
    train_tokens: int
    """Of one trial, over all tasks and epochs."""
    evaluation_tokens: int
    """Of one trial of the search."""
    whole_tokens: int
    """Of one trial whose whole matrix is scored on all examples."""
    scored: str
    """What of a trial is scored, in words."""
    base_tokens: int
    """Evaluation tokens of the untouched base, once a sweep."""
    base: BaseFacts | None
    methods: list[MethodFacts]
    """Sizes of every method that a trial may have."""
    memory_parts: dict[str, float]
    """Bytes of one worker by what they hold; empty when the base's sizes are unknown."""
    flops_train: float | None
    flops_evaluation: float | None
    speed: Speed | None
    """Of one worker; None: not measured."""
    trial_seconds: float | None
    """Of one worker's learning and scoring for a trial, start-up excluded; None: not known."""
    sweep_seconds: float | None
    """From the command to the verdict, if no trial is stopped early; None: not known."""
    at_once: int
    arithmetic: str
    storage_bytes: float
    shared_bytes: float
    """What the states that trials share may take beside it."""
    shared: SharedSteps | None
    """Training that is not repeated; None where it cannot be told ahead."""
    machine: Machine
    alone: dict[str, str] | None
    """Methods whose trials have workers of their own though the others are packed, and why; None
    for an executor that packs nothing."""
    problems: list[str]
    """What is in the way: a sweep would be refused."""
    warnings: list[str]

    @property
    def adapters(self) -> list[AdapterFacts]:
        """Sizes of every adapter that a trial may have."""
        return list(dict.fromkeys(method.adapter for method in self.methods))

    @property
    def worker_bytes(self) -> float | None:
        """Memory of one worker, None when the base's sizes are unknown."""
        return sum(self.memory_parts.values()) if self.memory_parts else None
