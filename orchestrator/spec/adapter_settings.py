"""Settings of each kind of adapter, as an experiment file has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.spec.validation import Spec, settings_by_kind


class _TargetedAdapter(Spec):
    r: int = Field(default=16, ge=1)
    """Rank."""
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None
    """Module name endings, or "all-linear"; null: queries, keys and values as the base names
    them."""


class CurloraSettings(_TargetedAdapter):
    """CURLoRA (Fawi 2024, arXiv 2408.14572): W + alpha C U R with C, R sampled from W."""

    kind: Literal["curlora"]
    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Factor on C U R."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the inverted sampling law; towards 0 the smallest energies, to infinity uniform."""
    selection: Literal["inverted", "uniform", "energy"] = "inverted"
    selection_seed: int = Field(default=0, ge=0)
    eps: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Added to each share of energy before it is inverted; the author's code has 1e-3."""
    with_replacement: bool = False
    """Draw as the author's code does, where a column may come twice."""


class SecuraSettings(_TargetedAdapter):
    """SECURA (Zhang et al. 2025, arXiv 2502.18168): a CUR core with an inner width above r."""

    kind: Literal["secura"]
    m: int | None = Field(default=None, ge=2)
    """Inner width of the core, above r; null: a third more than r, as released."""
    norm: Literal["none", "released", "bounded"] = "bounded"
    """S-MagNorm: as in the released code, or in the form that is continuous at zero."""
    s: float = Field(default=6.0, gt=0, allow_inf_nan=False)
    """Slope of S-MagNorm."""
    merge: Literal["none", "M1", "M2"] = "none"
    """When the trained core is folded into what is frozen."""
    merge_every: int = Field(default=1, ge=1)
    """Optimiser steps between two merges."""
    edge: float = Field(default=1.2, gt=0, allow_inf_nan=False)
    """A restraint at or below it counts as a large change."""
    share: float = Field(default=0.9, ge=0, le=1)
    """Share of large changes above which outputs are decayed."""
    decay: float = Field(default=0.99, gt=0, le=1)
    """What the outputs are then multiplied with."""
    init: Literal["truncated", "released"] = "truncated"
    """How the core's first factor starts: at the leading singular vectors, or as released."""

    @model_validator(mode="after")
    def _wider(self) -> SecuraSettings:
        if self.m is not None and self.m <= self.r:
            raise ValueError(f"`m` must be above `r` ({self.r}), got {self.m}")
        return self


class _LoraLike(_TargetedAdapter):
    alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    """`lora_alpha`: the update is scaled by alpha / r (rsLoRA: by alpha / sqrt(r))."""
    dropout: float = Field(default=0.0, ge=0, lt=1)


class LoraSettings(_LoraLike):
    """LoRA (Hu et al. 2021, arXiv 2106.09685), PEFT's own: W + alpha / r B A."""

    kind: Literal["lora"]


class RsloraSettings(_LoraLike):
    """rsLoRA (Kalajdzievski 2023, arXiv 2312.03732), PEFT's own: W + alpha / sqrt(r) B A."""

    kind: Literal["rslora"]


class DoraSettings(_LoraLike):
    """DoRA (Liu et al. 2024, arXiv 2402.09353), PEFT's own: direction and magnitude apart."""

    kind: Literal["dora"]


class PissaSettings(_LoraLike):
    """PiSSA (Meng et al. 2024, arXiv 2404.02948), PEFT's own: starts at the top of the SVD."""

    kind: Literal["pissa"]


class CordaSettings(_LoraLike):
    """CorDA (Yang et al. 2024, arXiv 2406.05223), PEFT's own, knowledge-preserving mode."""

    kind: Literal["corda"]
    source: str | None = None
    """The probe whose training text stands for the knowledge to keep."""

    @model_validator(mode="after")
    def _sourced(self) -> CordaSettings:
        if self.source is None:
            raise ValueError(
                "`source` is missing: name the probe whose text stands for the knowledge to keep"
            )
        return self


class MicaSettings(_LoraLike):
    """MiCA, PEFT's own: trains the subspace of W's smallest singular values."""

    kind: Literal["mica"]


class _WithDropout(_TargetedAdapter):
    dropout: float = Field(default=0.0, ge=0, lt=1)


class MissSettings(_WithDropout):
    """MiSS (Kang and Yin 2024, arXiv 2409.15371), PEFT's own: one matrix shared by all slices."""

    kind: Literal["miss"]


class OsfSettings(Spec):
    """OSF (Nayak et al. 2025, arXiv 2504.07097), PEFT's own: trains W's low singular subspace."""

    kind: Literal["osf"]
    effective_rank: float = Field(default=0.5, gt=0)
    """Singular directions that stay frozen: a share of them below 1, a number from 1 on."""
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None


class TinyloraSettings(_WithDropout):
    """TinyLoRA, PEFT's own: an r x r core on W's top singular vectors."""

    kind: Literal["tinylora"]
    u: int | None = Field(default=None, ge=1)
    """Trained numbers a layer; null: r squared, a core of full freedom."""


class RandloraSettings(_WithDropout):
    """RandLoRA (Albert et al. 2025, arXiv 2502.00987), PEFT's own: random bases, scaled."""

    kind: Literal["randlora"]
    r: int = Field(default=32, ge=1)
    alpha: float = Field(default=640.0, gt=0, allow_inf_nan=False)


class FullSettings(Spec):
    """No adapter: every weight of the base is trained."""

    kind: Literal["full"]


class HeadOnlySettings(Spec):
    """No adapter: the base stays as it is and linear heads alone are trained."""

    kind: Literal["head_only"]


AdapterSettings = Annotated[
    CurloraSettings
    | SecuraSettings
    | LoraSettings
    | RsloraSettings
    | DoraSettings
    | PissaSettings
    | CordaSettings
    | MicaSettings
    | MissSettings
    | OsfSettings
    | TinyloraSettings
    | RandloraSettings
    | FullSettings
    | HeadOnlySettings,
    Field(discriminator="kind"),
]


def adapter_options(adapter: Spec) -> dict[str, Any]:
    """An adapter's settings as `curlora.ADAPTERS` takes them.

    Args:
        adapter: `method.adapter` of an experiment.

    Returns:
        Plain settings by name, without the kind and without what names data.
    """
    return adapter.model_dump(mode="json", exclude={"kind", "source"})


ADAPTER_SETTINGS = settings_by_kind(AdapterSettings)
"""The settings of each kind of adapter."""
