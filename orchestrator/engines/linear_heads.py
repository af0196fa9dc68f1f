"""Linear classification heads on the last hidden state, one a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from curlora.adapters.files import AdapterError, check_tensors
from orchestrator.engines.checkpoints import read_tensors

HEADS_FILE = "heads.safetensors"
"""Beside an adapter's own files: `<task>.weight` (labels, hidden) and `<task>.bias` (labels,)."""


class LinearHeads(nn.Module):
    """A linear classifier for each of some tasks, on the last hidden state.

    Fawi (2024, arXiv 2408.14572, Sec. 4) gives every task a fresh head and keeps those of earlier
    tasks, frozen, for later evaluation.
    """

    def __init__(self, labels: Mapping[str, int], hidden: int, *, seed: int = 0) -> None:
        """Make fresh heads.

        Args:
            labels: Number of labels of each task.
            hidden: Width of the base model.
            seed: Of the weights, normal with standard deviation 0.02; biases are 0.
        """
        super().__init__()
        self.tasks = tuple(labels)
        self.layers = nn.ModuleList(nn.Linear(hidden, labels[task]) for task in self.tasks)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                layer.weight.normal_(0.0, 0.02, generator=generator)
                layer.bias.zero_()

    def forward(self, hidden: Tensor, task: str | None) -> tuple[Tensor | None, Tensor | None]:
        """One task's logits.

        Args:
            hidden: Hidden states (N, hidden).
            task: Whose head is read; None: nobody's.

        Returns:
            The logits (N, labels), float32, and, while gradients are recorded, a zero (a scalar)
            that depends on every other head: an optimiser over several workers needs a gradient
            for each of its parameters.

        Raises:
            KeyError: If the task has no head here.
        """
        logits: Tensor | None = None
        zero: Tensor | None = None
        for name, layer in zip(self.tasks, self.layers, strict=True):
            if name != task and not torch.is_grad_enabled():
                continue
            values = layer(hidden.to(layer.weight.dtype)).float()  # type: ignore[arg-type]
            if name == task:
                logits = values
            else:
                zero = values.sum() * 0.0 if zero is None else zero + values.sum() * 0.0
        if task is not None and logits is None:
            raise KeyError(f"There is no linear head for task {task!r}; there are {self.tasks}.")
        return logits, zero

    def named_tensors(self) -> dict[str, Tensor]:
        """The heads' tensors under their tasks' names."""
        return {
            f"{name}.{kind}": getattr(layer, kind).detach()
            for name, layer in zip(self.tasks, self.layers, strict=True)
            for kind in ("weight", "bias")
        }

    @classmethod
    def from_file(cls, path: Path) -> LinearHeads:
        """The heads that were written to a safetensors file.

        Args:
            path: The file.

        Returns:
            The heads.

        Raises:
            AdapterError: If the file is damaged, or is not of heads.
        """
        shapes = check_tensors(path)
        tasks = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
        whole = {f"{task}.{kind}" for task in tasks for kind in ("weight", "bias")} == set(shapes)
        widths = {shapes[f"{task}.weight"][1:] for task in tasks}
        if (
            not whole
            or len(widths) != 1
            or any(shapes[f"{task}.bias"] != shapes[f"{task}.weight"][:1] for task in tasks)
        ):
            raise AdapterError(
                f"`{path}` holds no linear heads: a weight (labels, hidden) and a bias (labels,) "
                f"of each task are needed, got {shapes}. Save or copy the adapter again."
            )
        tensors = read_tensors(path)
        weights = {task: tensors[f"{task}.weight"] for task in tasks}
        hidden = next(iter(weights.values())).shape[1]
        heads = cls({task: weight.shape[0] for task, weight in weights.items()}, hidden)
        with torch.no_grad():
            for name, layer in zip(heads.tasks, heads.layers, strict=True):
                layer.weight.copy_(tensors[f"{name}.weight"])  # type: ignore[operator]
                layer.bias.copy_(tensors[f"{name}.bias"])  # type: ignore[operator]
        return heads


HeadChoice: TypeAlias = str | Mapping[str | None, Tensor] | None
"""Whose linear head is read: one task's, nobody's, or for each its places among those read."""
