"""Methods: an adapter (what is trained) and a retention (what protects old knowledge).

Names from papers are presets over that product: `PRESETS`. Reading this needs neither torch nor
ray.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from orchestrator.spec.adapter_settings import AdapterSettings, AdapterWithText
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.retention_settings import (
    RETENTION_SETTINGS,
    RetentionSettings,
    RetentionWithSources,
)
from orchestrator.spec.validation import Spec
from orchestrator.system.wording import suggestion


class EarlyStoppingSpec(Spec):
    """Stop learning a task when examples that were held out of it stop getting likelier.

    The held-out examples are a part of the training rows, so that validation data takes no part.
    """

    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of a task's training examples that is not learnt."""
    checks: int = Field(default=8, ge=2)
    """Looks at the held-out loss within a task of full length."""
    patience: int = Field(default=1, ge=1)
    """Looks in a row without a lower loss after which the task ends."""


class MethodSpec(Spec):
    """What is trained, what protects old knowledge, and in which order tasks are seen."""

    preset: str | None = None
    """A name of `PRESETS`; what is written beside it replaces the preset's own setting."""
    adapter: AdapterSettings
    retention: RetentionSettings = RETENTION_SETTINGS["none"](kind="none")
    sequence: Literal["in_order", "joint"] = "in_order"
    """`joint` learns all tasks at once: what forgetting is measured against, not a method that
    learns one task after another."""
    early_stopping: EarlyStoppingSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        written = cast("Mapping[str, Any]", value)
        name = written.get("preset")
        if name is None:
            return written
        preset = PRESETS.get(str(name))
        if preset is None:
            raise ValueError(
                f"unknown preset {name!r}.{suggestion(str(name), list(PRESETS))} "
                f"Presets: {', '.join(PRESETS)}"
            )
        if preset.method is None:
            raise ValueError(
                f"the preset {name!r} is no trial: {preset.summary}. It is measured in every sweep "
                "without being asked for; take it out"
            )
        return _laid_over(preset.method, written)

    @model_validator(mode="after")
    def _joint_alone(self) -> MethodSpec:
        if self.sequence == "joint" and self.retention.kind != "none":
            raise ValueError(
                f"`sequence: joint` has no earlier task to protect; got the retention "
                f"{self.retention.kind!r}. Set `retention: {{kind: none}}`"
            )
        if self.sequence == "joint" and self.early_stopping is not None:
            raise ValueError("`early_stopping` is for tasks one after another, not for `joint`")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The probes whose training rows the method reads."""
        named: list[str] = []
        if isinstance(self.retention, RetentionWithSources):
            named += self.retention.sources
        if isinstance(self.adapter, AdapterWithText) and self.adapter.source:
            named.append(self.adapter.source)
        return tuple(dict.fromkeys(named))

    @property
    def name(self) -> str:
        """The preset's name, or adapter and retention."""
        if self.preset is not None:
            return self.preset
        retention = "" if self.retention.kind == "none" else f" + {self.retention.kind}"
        joint = " (joint)" if self.sequence == "joint" else ""
        return f"{self.adapter.kind}{retention}{joint}"


def _laid_over(preset: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's method with what a user wrote in its place."""
    method = copy.deepcopy(dict(preset))
    for key, value in written.items():
        own = method.get(key)
        # Settings of one kind mean nothing to another, so another kind starts from nothing.
        same_kind = (
            isinstance(own, dict)
            and isinstance(value, Mapping)
            and value.get("kind", own.get("kind")) == own.get("kind")
        )
        method[key] = dict(cast("Mapping[str, Any]", own)) | dict(value) if same_kind else value
    return method
