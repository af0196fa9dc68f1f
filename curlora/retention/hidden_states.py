"""Hidden states of a model as it runs, and other values in an adapter's place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def recorded_states(model: nn.Module) -> Iterator[list[tuple[Tensor, ...]]]:
    """Record the hidden states of every forward pass of a causal language model.

    Args:
        model: A model of transformers, or a `PeftModel` around one.

    Yields:
        A list that gets, for each pass, the states (rows, tokens, hidden) of the embeddings and of
        each layer, the last after the final norm.
    """
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    backbone: nn.Module = getattr(inner, inner.base_model_prefix)
    found: list[tuple[Tensor, ...]] = []

    def ask(_: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, {**named, "output_hidden_states": True}

    def keep(_: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        found.append(tuple(output.hidden_states))

    handles = [
        backbone.register_forward_pre_hook(ask, with_kwargs=True),
        backbone.register_forward_hook(keep),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def swapped(params: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other values in the place of parameters for a while.

    Args:
        params: The parameters.
        values: A value for each of them, by name.

    Yields:
        While the values are there.
    """
    kept = {name: parameter.detach().clone() for name, parameter in params.items()}
    with torch.no_grad():
        for name, parameter in params.items():
            parameter.copy_(values[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in params.items():
                parameter.copy_(kept[name])
