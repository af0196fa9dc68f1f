"""Settings of each kind of retention, as an experiment file has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.spec.validation import Spec, settings_by_kind


class NoRetention(Spec):
    """Nothing protects earlier knowledge: the same adapter learns on."""

    kind: Literal["none"] = "none"


class _Curved(Spec):
    decay: float = Field(default=1.0, ge=0, le=1)
    """Gamma: what earlier curvature is multiplied with when a task's is added; 1 is a sum."""
    max_examples: int = Field(default=256, ge=1)
    """Training examples of a task (or rows of a source set) whose gradients are taken."""


class _Pulled(_Curved):
    strength: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "auto"
    """Lambda: the penalty is lambda / 2 times the quadratic form; `auto`: found as each task
    begins, from its gradient and the curvature of what was learnt."""
    pull: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """With `strength: auto`: the norm of the penalty's gradient over that of the loss's, at the
    furthest that the task can go."""


class EwcRetention(_Pulled):
    """Online EWC over the adapter's parameters (Kirkpatrick et al. 2017; Schwarz et al. 2018)."""

    kind: Literal["ewc"]


class EwcWeightRetention(_Curved):
    """EWC-LoRA (arXiv 2602.17559): a fresh adapter a task, penalised in weight space."""

    kind: Literal["ewc_weight"]
    strength: float = Field(default=1e7 / 128, ge=0, allow_inf_nan=False)
    """Lambda; by default the published one for the Fisher of single examples: see
    `curlora.retention.EWC_LORA_STRENGTH`."""


class LaplaceRetention(_Pulled):
    """LaLoRA (Sliwa et al. 2025, arXiv 2512.17720): a quadratic penalty in the curvature metric."""

    kind: Literal["laplace"]
    curvature: Literal["diag", "kfac", "tri_kfac", "full"] = "diag"
    prior_precision: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Added to the curvature of every parameter."""
    sources: tuple[str, ...] = ()
    """Probes whose training rows give the curvature before the first task, averaged."""
    online: bool | None = None
    """Whether tasks add their curvature as they end; null: where there are no `sources`."""

    @model_validator(mode="after")
    def _some_source(self) -> LaplaceRetention:
        if not self.sources and self.online is False:
            raise ValueError(
                "`online: false` leaves no data to take the curvature from; name probes in "
                "`sources`, or drop it"
            )
        return self


class _Buffered(Spec):
    share: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Replayed rows for each row of the batch."""


class ReplayRetention(_Buffered):
    """Experience replay: a reservoir of earlier examples, as many in a batch as new ones."""

    kind: Literal["replay"]
    capacity: int = Field(default=1000, ge=1)
    """Examples kept of all finished tasks together."""


class IloraRetention(_Buffered):
    """I-LoRA (Ren et al. 2024, arXiv 2402.18865): a slow adapter steadies the fast one."""

    kind: Literal["ilora"]
    capacity: int = Field(default=500, ge=1)
    """Examples kept of all finished tasks together."""
    ema: float = Field(default=0.25, ge=0, le=1)
    """Largest share of itself that the slow adapter keeps at a step."""
    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the hidden states' distance; 0 leaves replay alone."""


class OloraRetention(Spec):
    """O-LoRA (Wang et al. 2023, arXiv 2310.14152): each task its own, orthogonal adapter."""

    kind: Literal["olora"]
    lambda1: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    """Weight of sum |A_i A_t'| over earlier tasks i."""
    lambda2: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the norm of the current task's factors."""


RetentionSettings = Annotated[
    NoRetention
    | EwcRetention
    | EwcWeightRetention
    | LaplaceRetention
    | ReplayRetention
    | IloraRetention
    | OloraRetention,
    Field(discriminator="kind"),
]


def retention_options(retention: Spec, seed: int) -> dict[str, Any]:
    """A retention's settings as `curlora.retention.RETENTIONS` takes them.

    Args:
        retention: `method.retention` of an experiment.
        seed: The run's seed, which draws of replayed examples depend on.

    Returns:
        Plain settings by name, without the kind; source sets are named by the fact alone.
    """
    options = retention.model_dump(mode="json", exclude={"kind", "sources"})
    if isinstance(retention, LaplaceRetention):
        options["source"] = "texts" if retention.sources else "tasks"
    if isinstance(retention, _Buffered):
        options["seed"] = seed
    return options


RETENTION_SETTINGS = settings_by_kind(RetentionSettings)
"""The settings of each kind of retention."""
