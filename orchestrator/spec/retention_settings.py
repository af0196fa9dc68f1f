"""Settings of each kind of retention, as an experiment file has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import model_validator

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.spec.kind_models import library_options, model_of, union_of
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


RETENTION_SETTINGS: dict[str, type[RetentionSpec]] = {
    kind.name: model_of(
        kind, RetentionWithSources if kind.reads_texts else RetentionSpec, "Retention"
    )
    for kind in RETENTIONS.values()
}
"""The settings of each kind of retention."""

if TYPE_CHECKING:
    RetentionSettings: TypeAlias = RetentionSpec
else:
    RetentionSettings = union_of(RETENTION_SETTINGS.values())
