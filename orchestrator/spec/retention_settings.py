"""Settings of each kind of retention, as an experiment file has them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from curlora_kinds.retentions.kind import RetentionKind
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.spec.kind_models import KindModels, OneOf, library_options
from orchestrator.spec.validation import Spec


class RetentionSpec(Spec):
    """`method.retention`: the kind and its settings."""

    kind: str

    @model_validator(mode="after")
    def _agree(self) -> RetentionSpec:
        self._check_file()
        RETENTIONS[self.kind].complete(retention_options(self, seed=0))
        return self

    def _check_file(self) -> None:
        """Refuse what is wrong of the fields that are a file's alone."""


class RetentionWithSources(RetentionSpec):
    """Of a retention that can take its statistics from named sets."""

    sources: tuple[str, ...] = ()
    """Probes whose training rows give the curvature before the first task, averaged."""

    def _check_file(self) -> None:
        if not self.sources and getattr(self, "online", None) is False:
            raise ValueError(
                "`online: false` leaves no data to take the curvature from; name probes in "
                "`sources`, or drop it"
            )


def retention_options(retention: RetentionSpec, seed: int) -> dict[str, Any]:
    """A retention's settings as `curlora.retention.RETENTIONS` takes them.

    Args:
        retention: `method.retention` of an experiment.
        seed: The run's seed, which draws of replayed examples depend on.

    Returns:
        Plain settings by name, without the kind; source sets are named by the fact alone.
    """
    settings = RETENTIONS[retention.kind].settings
    options = library_options(retention, settings)
    if isinstance(retention, RetentionWithSources):
        options["source"] = "texts" if retention.sources else "tasks"
    if "seed" in settings:
        options["seed"] = seed
    return options


def _base_of(kind: RetentionKind) -> type[RetentionSpec]:
    return RetentionWithSources if kind.reads_texts else RetentionSpec


RETENTION_SETTINGS = KindModels(RETENTIONS, _base_of, "Retention")
"""The settings of each kind of retention."""

RetentionSettings = Annotated[RetentionSpec, OneOf(RETENTION_SETTINGS)]
