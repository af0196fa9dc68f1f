"""One base for models that are scored one after another: loaded once, and seen to be untouched."""

from __future__ import annotations

import copy
from itertools import chain
from pathlib import Path
from typing import Any

from orchestrator.spec.experiment import Experiment


class SharedBase:
    """Gives models of saved adapters; those of one base share its tensors."""

    def __init__(self) -> None:
        """Begin without a base."""
        self._of: Any = None
        self._base: Any = None
        self._sums: list[int] = []

    def model(self, experiment: Experiment, adapter: Path | None) -> Any:
        """A model for scoring; the one before is of no use any more.

        Args:
            experiment: Whose base, precision and device.
            adapter: The saved adapter; None: the untouched base.

        Returns:
            The model, in evaluation mode.

        Raises:
            ModelError: If the base cannot be loaded.
            AdapterError: If the adapter cannot.
            FileNotFoundError: The folder holds no adapter.
        """
        from curlora import load_adapter

        base = self._fresh(experiment)
        return base if adapter is None else load_adapter(base, adapter).eval()

    def _fresh(self, experiment: Experiment) -> Any:
        """The base as loaded: modules of its own, around tensors that are shared."""
        from orchestrator.base.loading import load_base

        device = "cuda" if experiment.resources.gpus_per_worker else "cpu"
        spec, precision = experiment.model, experiment.training.precision
        if spec.quantization is not None:  # its modules hold more than tensors
            return load_base(spec, precision, device)
        # Whatever the last adapter has written into is not what another is put on.
        if (spec, precision, device) != self._of or _sums(self._base) != self._sums:
            self._of = self._base = None  # two do not fit into memory
            self._base = load_base(spec, precision, device)
            self._of, self._sums = (spec, precision, device), _sums(self._base)
        tensors = chain(self._base.parameters(), self._base.buffers())
        return copy.deepcopy(self._base, {id(tensor): tensor for tensor in tensors})


def _sums(model: Any) -> list[int]:
    """Of each tensor of a model the sum of its bytes, in words of eight; it depends on each bit."""
    import torch

    found: list[int] = []
    for tensor in chain(model.parameters(), model.buffers()):
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
        if raw.storage_offset() % 8:  # part of a larger one
            raw = raw.clone()
        whole = raw.numel() // 8 * 8
        found.append(int(raw[:whole].view(torch.int64).sum() + raw[whole:].sum()))
    return found
