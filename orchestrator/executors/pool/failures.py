"""Failures of one trial in a pack, in words, and those that every worker knows of."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from orchestrator.engines.workers import WorkersError
from orchestrator.loop.scoring import DivergedError


@dataclass(frozen=True)
class Failure:
    """Why something could not be computed, in words: an error keeps the tensors of its pass."""

    reason: str
    """One line."""
    details: str
    """The traceback; empty where the reason says all."""
    memory: bool = False
    """Whether memory did not suffice."""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Put an error into words."""
        if isinstance(error, SharedFailureError):
            return error.failure
        text = " ".join(str(error).split())
        if isinstance(error, DivergedError):
            return cls(text, "")
        details = "".join(traceback.format_exception(error))
        return cls(f"{type(error).__name__}: {text}", details, out_of_memory(error))


class SharedFailureError(Exception):
    """A failure that every worker knows of."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = replace(failure, memory=False)  # of one worker alone it would end them all


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on any device.

    Args:
        error: What was raised.

    Returns:
        Whether a smaller pass may succeed.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


Result = TypeVar("Result")


def attempt(work: Callable[[], Result]) -> Result | Failure:
    """Do something that may fail without others being harmed.

    Args:
        work: What to do.

    Returns:
        What it returned, or why it failed.

    Raises:
        AcceleratorError: The device is of no use any more, to any trial.
        WorkersError: The other workers wait for what this one has not done.
    """
    try:
        return work()
    except (torch.AcceleratorError, WorkersError):
        raise
    except Exception as error:  # noqa: BLE001 (anything at all ends one trial, and is reported)
        return Failure.of(error)


def too_long(failure: Failure, tokens: int) -> Failure:
    """Say of which length a row is that does not fit into memory alone.

    Args:
        failure: Of a pass of that row.
        tokens: Its length.

    Returns:
        The same failure, or one whose reason names the length where memory did not suffice.
    """
    if not failure.memory:
        return failure
    reason = (
        f"a single row of {tokens} tokens does not fit into memory; lower `training.max_length` "
        f"or `resources.slots` ({failure.reason})"
    )
    return replace(failure, reason=reason)
