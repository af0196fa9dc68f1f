"""What a sweep learns on from: a finished trial of another sweep in the same storage folder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.spec.validation import PathText, Spec


class ExtensionSpec(Spec):
    """The trial that has learnt the first tasks of the sequence; `orchestrate extend` names it."""

    sweep: PathText
    """The folder of its sweep, in the storage folder."""
    sweep_id: str
    """The identity of that sweep."""
    trial: str
    adapter_sha256: str | None = None
    """The journal's hash of its adapter."""
    carried_sha256: str | None = None
    """That of what it carries beside the adapter; null: nothing was kept, and the adapter is
    learnt on from alone."""
    learnt: int = Field(ge=1)
    """How many tasks of this sequence, from the first, it has learnt."""
    begin: Literal["state", "fresh"] = "state"
    """`state`: go on from what that trial left. `fresh`: learn the further tasks alone, with an
    adapter that has seen nothing."""

    compared: bool = Field(default=True, exclude_if=lambda compared: compared)
    """Whether joint retraining and a fresh adapter are trained beside it."""

    @property
    def named(self) -> str:
        """The trial as `SWEEP/TRIAL`."""
        return f"{self.sweep}/{self.trial}"

    @property
    def as_it_was(self) -> str:
        """The trial before anything more is learnt, in words."""
        return f"{self.named} as it was"
