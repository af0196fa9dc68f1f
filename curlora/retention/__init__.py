"""What can protect earlier knowledge while a task is learnt. The table needs no torch to be read.

    retention = RETENTIONS["laplace"].build({"curvature": "kfac", "strength": 10.0})

A method is an adapter and a retention, chosen independently; `refuses` says which pairs make no
sense. What a retention does at which moment: `curlora.retention.protocol`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curlora.adapters import ADAPTERS, AdapterKind

if TYPE_CHECKING:
    from curlora.retention.protocol import Retention

__all__ = ["EWC_LORA_STRENGTH", "RETENTIONS", "RetentionKind", "Setting"]

LARGEST_FULL_RANK = 32
"""Beyond it the full curvature of one `U` has over a million entries, r^4."""
EWC_LORA_STRENGTH = 1e7 / 128
"""EWC-LoRA's lambda for a Fisher of single examples, 78,125.

The released code (methods/ewclora.py of yaoyz96/low-rank-cl) has 1e7, for a Fisher that squares
the mean gradient of a batch of 128: E[(mean of 128 g)^2] is E[g^2] / 128 where the gradients of
examples are independent with mean zero. Ours squares each example's, so the same penalty needs a
lambda that is 128 times smaller.
"""


@dataclass(frozen=True)
class Setting:
    """One setting of a retention: its default and what it may be."""

    default: int | float | str | bool | None
    """What it is where the file says nothing."""
    meaning: str
    """One line."""
    low: float = 0.0
    """Smallest number allowed."""
    high: float = math.inf
    """Largest number allowed."""
    choices: tuple[str, ...] = ()
    """The words allowed, for a setting that is a word."""
    words: tuple[str, ...] = ()
    """The words allowed beside numbers, for a setting that is a number otherwise."""

    def check(self, name: str, value: Any) -> None:
        """Refuse a value outside the range.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is of another type than the default, or outside the range.
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(self.choices)}, got {value!r}."
                    f"{_nearest(value, self.choices)}"
                )
        elif self.default is None or isinstance(self.default, bool):
            allowed = (True, False) if self.default is not None else (None, True, False)
            if not any(value is word for word in allowed):
                raise ValueError(f"`{name}` must be true or false, got {value!r}.")
        elif not (isinstance(value, str) and value in self.words):
            self._check_number(name, value)

    def _check_number(self, name: str, value: Any) -> None:
        whole = isinstance(self.default, int)
        number = isinstance(value, int) if whole else isinstance(value, int | float)
        if isinstance(value, bool) or not number or not self.low <= value <= self.high:
            below = "" if self.high == math.inf else f" and at most {self.high:g}"
            words = "".join(f"{word!r} or " for word in self.words)
            raise ValueError(
                f"`{name}` must be {words}a {'whole ' if whole else ''}number of at least "
                f"{self.low:g}{below}, got {value!r}."
            )
        if not math.isfinite(value):
            raise ValueError(f"`{name}` must be finite, got {value!r}.")


@dataclass(frozen=True)
class RetentionKind:
    """One row of the table of retentions."""

    name: str
    """What an experiment calls it."""
    settings: Mapping[str, Setting]
    """What can be set, by name; everything has a default."""
    summary: str
    """One line, with the paper."""
    make: Callable[[dict[str, Any]], Retention]
    """From a full set of checked settings."""
    why_not: Callable[[str, Mapping[str, Any]], str | None]
    """From an adapter's kind and a full set of settings."""

    def complete(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Fill in defaults.

        Args:
            settings: Some of the settings.

        Returns:
            All of them, numbers of the default's type.

        Raises:
            ValueError: A setting is unknown or outside its range.
        """
        for name in settings or {}:
            if name not in self.settings:
                raise ValueError(
                    f"Retention {self.name!r} has no setting {name!r}."
                    f"{_nearest(name, tuple(self.settings))}"
                )
        values: dict[str, Any] = {name: setting.default for name, setting in self.settings.items()}
        values |= settings or {}
        for name, setting in self.settings.items():
            setting.check(name, values[name])
            number = isinstance(setting.default, float) or setting.words
            if number and not isinstance(values[name], str):
                values[name] = float(values[name])  # YAML reads 10 as a whole number
        return values

    def build(self, settings: Mapping[str, Any] | None = None) -> Retention:
        """Build the retention.

        Args:
            settings: Some of the settings.

        Returns:
            One that has seen nothing.

        Raises:
            ValueError: A setting is unknown or outside its range, or two contradict each other.
        """
        return self.make(self.complete(settings))

    def refuses(self, adapter_kind: str, settings: Mapping[str, Any] | None = None) -> str | None:
        """Say why this retention does not go with an adapter.

        Args:
            adapter_kind: The adapter's name. `r`, among `settings`, may give its rank.
            settings: Some of the settings.

        Returns:
            The reason and what to do instead, or None if the two go together.

        Raises:
            ValueError: A setting is unknown or outside its range.
        """
        given = dict(settings or {})
        rank = given.pop("r", None)
        values = self.complete(given)
        if adapter_kind == "head_only" and self.name not in {"none", "replay"}:
            return (
                "`head_only` trains no adapter, so there is nothing of earlier tasks to protect. "
                "Use retention `none`, or `replay`."
            )
        return self.why_not(adapter_kind, values | {"r": rank})


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


def _goes_with_all(adapter_kind: str, settings: Mapping[str, Any]) -> None:  # noqa: ARG001
    return None


def _only_with(
    fits: Callable[[AdapterKind], bool], *, need: str
) -> Callable[[str, Mapping[str, Any]], str | None]:
    def why_not(adapter_kind: str, settings: Mapping[str, Any]) -> str | None:  # noqa: ARG001
        fitting = [name for name, kind in ADAPTERS.items() if fits(kind)]
        if adapter_kind in fitting:
            return None
        return f"It needs {need}, and {adapter_kind!r} has none. Adapters: {', '.join(fitting)}."

    return why_not


def _has_matrices(kind: AdapterKind) -> bool:
    return kind.linear_factors is not None


def _has_two_factors(kind: AdapterKind) -> bool:
    return kind.linear_factors == "lora"


def _adds_a_product(kind: AdapterKind) -> bool:
    return kind.additive and kind.linear_factors is not None


def _adds_two_factors(kind: AdapterKind) -> bool:
    return kind.additive and kind.linear_factors == "lora"


def _laplace_why_not(adapter_kind: str, settings: Mapping[str, Any]) -> str | None:
    curvature, rank = settings["curvature"], settings["r"]
    if curvature == "diag":
        return None
    if curvature == "full":
        if adapter_kind != "curlora":
            return (
                "Curvature `full` is kept for CURLoRA's small `U` only. Use `curlora`, or "
                "curvature `diag`."
            )
        if rank is not None and rank > LARGEST_FULL_RANK:
            return (
                f"Curvature `full` has r^4 entries a layer, and `r` is {rank}. Set `r` to at most "
                f"{LARGEST_FULL_RANK}, or use curvature `kfac`."
            )
        return None
    needed = {
        "kfac": _only_with(_has_matrices, need="trained matrices that act on what they are given"),
        "tri_kfac": _only_with(_has_two_factors, need="LoRA's two factors, which it couples"),
    }[curvature]
    reason = needed(adapter_kind, settings)
    return reason and f"Curvature `{curvature}`: {reason} Or use curvature `diag`."


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
        why_not=_goes_with_all,
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
        why_not=_goes_with_all,
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
        why_not=_only_with(_adds_a_product, need="an update that is a product added to the weight"),
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
        why_not=_laplace_why_not,
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
        why_not=_goes_with_all,
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
        why_not=_goes_with_all,
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
        why_not=_only_with(_adds_two_factors, need="LoRA's factor A, the subspace of each task"),
    ),
)
RETENTIONS: dict[str, RetentionKind] = {kind.name: kind for kind in _KINDS}
"""From the name of a kind to what it is."""


def _nearest(name: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."
