"""Tensors on disk: safetensors and JSON, whole or not at all.

A checkpoint is a folder of `weights.safetensors` (the trainable tensors and what was merged of
them), `optimizer-rank<r>.safetensors` (inside a task: each rank's shard of fp32 masters and
moments), `retention.safetensors` (what the retention carries) and `engine.json`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.records.carried_folder import RETENTION_FILE, WEIGHTS_FILE

ENGINE_FILE = "engine.json"


def optimizer_file(rank: int) -> str:
    """The file of a rank's shard of the optimiser."""
    return f"optimizer-rank{rank}.safetensors"


def save_weights(
    folder: Path, tensors: Mapping[str, Tensor], carried: Mapping[str, Tensor]
) -> None:
    """Write trained tensors, and what a retention carries where it carries anything."""
    write_tensors(folder / WEIGHTS_FILE, tensors)
    if carried:
        write_tensors(folder / RETENTION_FILE, carried)


def carried_along(folder: Path, follows: tuple[str, ...]) -> dict[str, Tensor]:
    """What a retention carried that follows the trained tensors step by step.

    Args:
        folder: A checkpoint.
        follows: How the names of such tensors begin; empty of most kinds, of which nothing is read.

    Returns:
        By name.
    """
    if not follows:
        return {}
    carried = read_tensors(folder / RETENTION_FILE)
    return {name: tensor for name, tensor in carried.items() if name.startswith(follows)}


def flat_state(optimizer: torch.optim.Optimizer, masters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Parameters and moments as the optimiser holds them.

    Args:
        optimizer: The optimiser.
        masters: The tensors it steps; under ZeRO, this rank's fp32 partitions.

    Returns:
        `<index>.master` and `<index>.<state>` of each.
    """
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(masters):
        tensors[f"{index}.master"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{index}.{key}"] = torch.as_tensor(value)
    return tensors


def load_flat_state(
    optimizer: torch.optim.Optimizer, masters: Sequence[Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put `flat_state` back.

    Args:
        optimizer: An optimiser over the same tensors.
        masters: The tensors it steps.
        tensors: What `flat_state` gave.
    """
    with torch.no_grad():
        for index, parameter in enumerate(masters):
            parameter.copy_(tensors[f"{index}.master"])
            state = optimizer.state[parameter]
            for name, value in tensors.items():
                number, key = name.split(".", 1)
                if int(number) != index or key == "master":
                    continue
                if isinstance(state.get(key), int | float):
                    state[key] = type(state[key])(value.item())
                else:
                    # Adam's step counter stays on the CPU, moments follow their parameter.
                    moved = value.to(parameter.device) if value.dim() else value
                    state[key] = moved.clone()


def stepped_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimiser steps, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def named_tensors(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a file that is to hold just these.

    Args:
        path: A safetensors file.
        names: Those that it is to hold.

    Returns:
        By name.

    Raises:
        ValueError: If the file holds other tensors.
    """
    tensors = read_tensors(path)
    if set(tensors) != set(names):
        differing = sorted(set(names) ^ set(tensors))[:3]
        raise ValueError(
            f"The checkpoint {path} holds other tensors than this trial has; differing: "
            f"{differing}. Was the method changed? Start another sweep with --new."
        )
    return tensors


def load_tensors(into: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors of a file into those of the same names.

    Args:
        into: Name to tensor, written in place.
        path: A safetensors file. One that holds other tensors is a ValueError.
    """
    tensors = named_tensors(path, into)
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(tensors[name])


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from curlora import permissions

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    own = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    permissions.write_tensors(half, own)
    half.replace(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(path)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a small JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))
