"""Methods: an adapter (what is trained) and a retention (what protects old knowledge).

Names from papers are presets over that product: `PRESETS`. Reading this needs neither torch nor
ray.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import Field, model_validator

from orchestrator.tasks import Spec, suggestion

# --- adapters ------------------------------------------------------------------------------------


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

# --- retentions ----------------------------------------------------------------------------------


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


def adapter_options(adapter: Spec) -> dict[str, Any]:
    """An adapter's settings as `curlora.ADAPTERS` takes them.

    Args:
        adapter: `method.adapter` of an experiment.

    Returns:
        Plain settings by name, without the kind and without what names data.
    """
    return adapter.model_dump(mode="json", exclude={"kind", "source"})


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


def _kinds(annotation: Any) -> dict[str, type[Spec]]:
    members: tuple[type[Spec], ...] = get_args(get_args(annotation)[0])
    return {get_args(member.model_fields["kind"].annotation)[0]: member for member in members}


ADAPTER_SETTINGS = _kinds(AdapterSettings)
"""The settings of each kind of adapter."""
RETENTION_SETTINGS = _kinds(RetentionSettings)
"""The settings of each kind of retention."""


# --- methods -------------------------------------------------------------------------------------


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
    retention: RetentionSettings = NoRetention()
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
        if isinstance(self.retention, LaplaceRetention):
            named += self.retention.sources
        if isinstance(self.adapter, CordaSettings) and self.adapter.source:
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


@dataclass(frozen=True)
class Preset:
    """A method under the name that a paper, or custom, gives it."""

    summary: str
    method: Mapping[str, Any] | None = field(repr=False)
    """What stands under `method` in a file; None for a control that every sweep measures itself."""
    source: str = ""
    """Where the settings come from; empty for controls."""
    learning_rate: float | None = None
    """The published learning rate, None where none was found."""


_QKV = ("q_proj", "k_proj", "v_proj")
_LORA = {"kind": "lora", "r": 16, "alpha": 16.0}

PRESETS: dict[str, Preset] = {
    "curlora": Preset(
        "CURLoRA by the paper's formula: inverted sampling without eps, U starts at zero",
        {"adapter": {"kind": "curlora", "r": 16, "alpha": 1.0, "temperature": 1.0}},
        "Fawi 2024, arXiv 2408.14572, Eq. 3-8; settings of Sec. 4",
        2.5e-4,
    ),
    "curlora-author": Preset(
        "CURLoRA as the author's code draws: eps 1e-3, with replacement",
        {
            "adapter": {
                "kind": "curlora", "r": 16, "alpha": 1.0, "eps": 1e-3, "with_replacement": True,
            }
        },
        "code/curlora.py of MNoorFawi/curlora, v4.0.0",
        2.5e-4,
    ),
    "secura": Preset(
        "SECURA without its out-bias: CABR core of widths 150 and 200, merged every step, so that "
        "S-MagNorm never acts",
        {
            "adapter": {
                "kind": "secura", "r": 150, "m": 200, "norm": "released", "s": 6.0, "merge": "M1",
                "init": "released",
                "merge_every": 1, "target_modules": ("q_proj", "v_proj"),
            }
        },
        "ExpStart.py of MeCuping/SECURA (arXiv 2502.18168); the paper's tables were not found",
        1e-3,
    ),
    "lalora": Preset(
        "LaLoRA: LoRA with a diagonal Laplace penalty; as its paper has it, name `sources`",
        {"adapter": _LORA, "retention": {"kind": "laplace", "curvature": "diag"}},
        "Sliwa et al. 2025, arXiv 2512.17720, abstract and reviews; rank and lambda not found",
    ),
    "ewc-lora": Preset(
        "EWC-LoRA: a fresh LoRA a task, Fisher of the weights it is merged into",
        {
            "adapter": {
                "kind": "lora", "r": 10, "alpha": 10.0, "target_modules": ("k_proj", "v_proj"),
            },
            "retention": {"kind": "ewc_weight", "strength": 1e7 / 128, "decay": 1.0},
        },
        "methods/ewclora.py of yaoyz96/low-rank-cl (arXiv 2602.17559), for ViT-B/16",
        5e-4,
    ),
    "er": Preset(
        "Experience replay: LoRA, and as many buffered examples as new ones in every batch",
        {"adapter": _LORA, "retention": {"kind": "replay", "capacity": 1000}},
        "buffer of 1,000 as in which47/LLMCL",
    ),
    "i-lora": Preset(
        "I-LoRA without its dropout of 0.1 and 500 warm-up steps: fast and slow LoRA, hidden "
        "states of replayed examples kept near the slow one's",
        {
            "adapter": {
                "kind": "lora", "r": 8, "alpha": 32.0, "target_modules": (*_QKV, "o_proj"),
            },
            "retention": {"kind": "ilora", "capacity": 500, "ema": 0.25, "strength": 1.0},
        },
        "method/ILORA.py of which47/LLMCL (arXiv 2402.18865)",
        1e-5,
    ),
    "o-lora": Preset(
        "O-LoRA without its dropout of 0.1: a fresh LoRA a task, kept orthogonal to the frozen "
        "ones of earlier tasks",
        {
            "adapter": {
                "kind": "lora", "r": 8, "alpha": 32.0, "target_modules": ("q_proj", "v_proj"),
            },
            "retention": {"kind": "olora", "lambda1": 0.5, "lambda2": 0.0},
        },
        "cmnfriend/O-LoRA (arXiv 2310.14152); T5-large, 1e-3 on the first task",
        1e-3,
    ),
    "seq": Preset(
        "Sequential fine-tuning: the same LoRA learns one task after another, unprotected",
        {"adapter": _LORA},
    ),
    "laplace-curlora": Preset(
        "Ours: CURLoRA's core under its whole empirical Fisher, task by task",
        {
            "adapter": {"kind": "curlora", "r": 16, "alpha": 1.0, "temperature": 1.0},
            "retention": {"kind": "laplace", "curvature": "full"},
        },
    ),
    "zero-shot": Preset("control: the untouched base, row 0 of every accuracy matrix", None),
    "majority": Preset("control: always the commonest label of the training rows", None),
    "head-only": Preset(
        "control: the base frozen, linear heads alone trained",
        {"adapter": {"kind": "head_only"}},
    ),
    "early-stopped-lora": Preset(
        "control: LoRA that stops each task when held-out examples stop getting likelier",
        {"adapter": _LORA, "early_stopping": {}},
    ),
    "joint": Preset(
        "control: LoRA on all tasks at once, what forgetting is measured against",
        {"adapter": _LORA, "sequence": "joint"},
    ),
}  # fmt: skip
"""Methods by the names of their papers, and the controls."""
