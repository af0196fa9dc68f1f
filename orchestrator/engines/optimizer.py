"""AdamW, its learning rates over a task, and the random numbers of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from orchestrator.spec.sections import TrainingSpec


def schedule_factor(spec: TrainingSpec, step: int, steps: int) -> float:
    """The learning rate of a step as a share of `learning_rate`.

    Args:
        spec: Schedule and warm-up.
        step: Optimiser step within the task, counted from 0.
        steps: Optimiser steps of the task.

    Returns:
        A factor in (0, 1].
    """
    warmup = math.ceil(spec.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    match spec.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))


def reach(spec: TrainingSpec, steps: int) -> float:
    """The sum of a task's learning rates: about the furthest that AdamW can move a parameter.

    Args:
        spec: Learning rate, schedule and warm-up. A schedule of DeepSpeed's own is not known here.
        steps: Optimiser steps of the task.

    Returns:
        A sum above 0.
    """
    return spec.learning_rate * sum(schedule_factor(spec, step, steps) for step in range(steps))


def adamw(trainable: Mapping[str, nn.Parameter], spec: TrainingSpec) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with the spec's settings.

    Args:
        trainable: What `trainable_parameters` gave.
        spec: How to train.

    Returns:
        One group for the adapter and, where there are linear heads, one for them: with a rate of
        their own and without decay, which would wear down the heads of earlier tasks.
    """
    adapter = [p for n, p in trainable.items() if not n.startswith("heads.")]
    heads = [p for n, p in trainable.items() if n.startswith("heads.")]
    groups: list[dict[str, Any]] = []
    if adapter:
        groups.append({"params": adapter, "weight_decay": spec.weight_decay, "heads": False})
    if heads:
        groups.append({"params": heads, "weight_decay": 0.0, "heads": True})
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, 0.999))


def set_rates(optimizer: torch.optim.Optimizer, spec: TrainingSpec, factor: float) -> None:
    """Set the learning rates of one step: the adapter's, and the heads' where there are any."""
    for group in optimizer.param_groups:
        # A user's own DeepSpeed optimiser has one group, of everything.
        heads = group.get("heads", False)
        group["lr"] = (spec.head_learning_rate if heads else spec.learning_rate) * factor


def seed_step(seed: int, step: int, rank: int) -> None:
    """Fix the random numbers of one step: a resumed run needs no generator state."""
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)
