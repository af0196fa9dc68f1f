"""What can protect earlier knowledge while a task is learnt. The table needs no torch to be read.

    retention = RETENTIONS["laplace"].build({"curvature": "kfac", "strength": 10.0})

A method is an adapter and a retention, chosen independently; `refuses` says which pairs make no
sense. What a retention does at which moment: `curlora.retention.protocol`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curlora.retention.kind import RetentionKind, Setting
from curlora.retention.pairs import (
    adds_a_product,
    adds_two_factors,
    goes_with_all,
    laplace_why_not,
    only_with,
)

if TYPE_CHECKING:
    from curlora.retention.protocol import Retention


EWC_LORA_STRENGTH = 1e7 / 128
"""EWC-LoRA's lambda for a Fisher of single examples, 78,125.

The released code (methods/ewclora.py of yaoyz96/low-rank-cl) has 1e7, for a Fisher that squares
the mean gradient of a batch of 128: E[(mean of 128 g)^2] is E[g^2] / 128 where the gradients of
examples are independent with mean zero. Ours squares each example's, so the same penalty needs a
lambda that is 128 times smaller.
"""


def _none(values: dict[str, Any]) -> Retention:  # noqa: ARG001
    from curlora.retention.protocol import Retention

    return Retention()


def _ewc(values: dict[str, Any]) -> Retention:
    from curlora.retention.ewc import Ewc

    return Ewc(**values)


def _ewc_weight(values: dict[str, Any]) -> Retention:
    from curlora.retention.ewc_weight import EwcWeight

    return EwcWeight(**values)


def _laplace(values: dict[str, Any]) -> Retention:
    from curlora.retention.laplace import Laplace

    return Laplace(**values)


def _replay(values: dict[str, Any]) -> Retention:
    from curlora.retention.replay import Replay

    return Replay(**values)


def _ilora(values: dict[str, Any]) -> Retention:
    from curlora.retention.ilora import Ilora

    return Ilora(**values)


def _olora(values: dict[str, Any]) -> Retention:
    from curlora.retention.olora import Olora

    return Olora(**values)


def _strength(default: float, meaning: str) -> Setting:
    return Setting(default, meaning)


_DECAY = Setting(1.0, "what earlier curvature is multiplied by at the end of a task", high=1.0)
_EXAMPLES = Setting(256, "examples from which curvature is estimated, per task or set", low=1)
_LAMBDA = Setting(
    "auto",
    "multiplies the penalty; `auto`: found as each task begins, so that `pull` holds. 1 is the "
    "posterior's own weight where the loss is the mean negative log-probability of an example and "
    "tasks are of equal size, and has been too weak to be seen",
    words=("auto",),
)
_PULL = Setting(
    1.0,
    "with `strength: auto`, the norm of the penalty's gradient over that of the loss's at the "
    "furthest that a task can go",
)
_RESERVOIR = {
    "share": Setting(1.0, "replayed rows for each row of the batch"),
    "seed": Setting(0, "where the draws come from"),
}

_KINDS = (
    RetentionKind(
        name="none",
        settings={},
        summary="Nothing is protected: the same adapter goes on training.",
        make=_none,
        why_not=goes_with_all,
    ),
    RetentionKind(
        name="ewc",
        settings={
            "strength": _LAMBDA,
            "pull": _PULL,
            "decay": _DECAY,
            "max_examples": _EXAMPLES,
        },
        summary=(
            "Online EWC over the adapter's parameters: a quadratic pull to the last task's end, "
            "weighted by the diagonal Fisher (Kirkpatrick et al. 2017; Schwarz et al. 2018)."
        ),
        make=_ewc,
        why_not=goes_with_all,
    ),
    RetentionKind(
        name="ewc_weight",
        settings={
            "strength": Setting(
                EWC_LORA_STRENGTH, "multiplies the penalty; the published 1e7 over batches of 128"
            ),
            "decay": _DECAY,
            "max_examples": _EXAMPLES,
        },
        summary=(
            "EWC-LoRA: each task's own update is held where the weights mattered, by a diagonal "
            "Fisher as large as the weights (arXiv 2602.17559, 2026)."
        ),
        make=_ewc_weight,
        why_not=only_with(adds_a_product, need="an update that is a product added to the weight"),
    ),
    RetentionKind(
        name="laplace",
        settings={
            "curvature": Setting(
                "diag",
                "the approximation of the Fisher",
                choices=("diag", "kfac", "tri_kfac", "full"),
            ),
            "strength": _LAMBDA,
            "pull": _PULL,
            "decay": _DECAY,
            "prior_precision": Setting(0.0, "added to every parameter's curvature"),
            "source": Setting(
                "tasks",
                "`tasks`: curvature of each finished task; `texts`: of source sets, before the "
                "first task, as LaLoRA does",
                choices=("tasks", "texts"),
            ),
            "online": Setting(
                None, "whether finished tasks add their curvature; by default with `tasks` only"
            ),
            "max_examples": _EXAMPLES,
        },
        summary=(
            "A quadratic pull weighted by a Laplace approximation: LaLoRA from source texts "
            "(Sliwa et al. 2025, arXiv 2512.17720), or online over tasks (Ritter et al. 2018)."
        ),
        make=_laplace,
        why_not=laplace_why_not,
    ),
    RetentionKind(
        name="replay",
        settings={
            "capacity": Setting(1000, "examples kept of all finished tasks together", low=1),
            **_RESERVOIR,
        },
        summary=(
            "Experience replay: examples of finished tasks, a uniform sample kept by reservoir "
            "(Vitter 1985), join every batch (Chaudhry et al. 2019)."
        ),
        make=_replay,
        why_not=goes_with_all,
    ),
    RetentionKind(
        name="ilora",
        settings={
            "strength": _strength(1.0, "multiplies the distance of the hidden states"),
            "ema": Setting(0.25, "largest share of the slow parameters kept at a step", high=1.0),
            "capacity": Setting(500, "examples kept of all finished tasks together", low=1),
            **_RESERVOIR,
        },
        summary=(
            "I-LoRA: a slowly moving copy of the adapter guides the hidden states of replayed "
            "examples (Ren et al. 2024, arXiv 2402.18865)."
        ),
        make=_ilora,
        why_not=goes_with_all,
    ),
    RetentionKind(
        name="olora",
        settings={
            "lambda1": Setting(0.5, "multiplies the overlap with earlier tasks' input subspaces"),
            "lambda2": Setting(0.0, "multiplies the norm of the adapter"),
        },
        summary=(
            "O-LoRA: each task learns a LoRA of its own, orthogonal to the frozen earlier ones "
            "(Wang et al. 2023, arXiv 2310.14152)."
        ),
        make=_olora,
        why_not=only_with(adds_two_factors, need="LoRA's factor A, the subspace of each task"),
    ),
)
RETENTIONS: dict[str, RetentionKind] = {kind.name: kind for kind in _KINDS}
"""From the name of a kind to what it is."""
