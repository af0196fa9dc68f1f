"""The adapters a run can name: one table, from a kind to all that is known of it in advance.

A kind says how its PEFT config is made of the plain settings of an experiment file, which settings
it has and their defaults, whether it touches the base, and how many numbers it will train. This
module imports neither torch nor PEFT until a config is built, so that a plan can be made without
them. Every kind of `ADAPTERS` goes through the same tests
(`tests/curlora/test_every_adapter.py`); `curlora.attach` puts one on a model.

Shapes are those of the targeted linear layers, (d_out, d_in) by module name.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class AdapterKind:
    """What is known of an adapter before a model is loaded."""

    name: str
    """Its key in `ADAPTERS`."""
    summary: str
    """One line: the paper and what is trained."""
    settings: Mapping[str, Any]
    """The settings it takes, with their defaults."""
    make_config: Callable[[dict[str, Any]], PeftConfig] | None
    """From complete settings to PEFT's config; None where nothing is added to the base."""
    count_trained: Callable[[dict[str, Any], Shapes], int]
    """From complete settings and shapes to the number of trained parameters."""
    count_frozen: Callable[[dict[str, Any], Shapes], int]
    """The floating-point numbers kept beside the base and the trained parameters."""
    changes_base: Literal["never", "init", "train", "merge"] = "never"
    """When the weights of the base are written: when attached, by each step, or when merged."""
    linear_factors: Literal["lora", "core"] | None = None
    """Which trained matrices act as z = P h: `lora_A` and `lora_B`, or a core (r, r) alone."""
    additive: bool = False
    """Whether a layer's update is added to its output, so that earlier ones can be frozen and
    summed."""
    conv1d: bool = True
    """Whether GPT-2's Conv1D layers can be adapted."""
    reads_weight: bool = False
    """Whether it needs the base's weights as floating-point numbers, so none that is quantised."""

    def complete(self, settings: Settings) -> dict[str, Any]:
        """Check settings and fill in the defaults.

        Args:
            settings: Some of the names of `settings`.

        Returns:
            A value for every name of `settings`.

        Raises:
            ValueError: A name is unknown, or a value is outside its range.
        """
        for name in settings:
            if name not in self.settings:
                raise ValueError(
                    f"Adapter {self.name!r} has no setting {name!r}.{_nearest(name, self.settings)}"
                )
        values = dict(self.settings) | dict(settings)
        for name, check in _CHECKS.items():
            if name in values:
                check(name, values[name])
        if values.get("m") is not None and values["m"] <= values["r"]:
            raise ValueError(
                f"`m` must be above `r` = {values['r']}, got {values['m']}: the core is widened. "
                "For a core of r x r, use 'curlora'."
            )
        if isinstance(values.get("target_modules"), tuple | set | frozenset):
            values["target_modules"] = sorted(values["target_modules"])
        return values

    def build(self, settings: Settings) -> PeftConfig | None:
        """Build the PEFT config.

        Args:
            settings: Some of the names of `settings`.

        Returns:
            A config for `peft.get_peft_model`, or None where nothing is added to the base.

        Raises:
            ValueError: A name is unknown, or a value is outside its range.
        """
        values = self.complete(settings)
        return None if self.make_config is None else self.make_config(values)

    def trained(self, settings: Settings, shapes: Shapes) -> int:
        """Give how many parameters will be trained.

        Args:
            settings: Some of the names of `settings`.
            shapes: (d_out, d_in) of the targeted linear layers, by name; for `full`, the shape of
                every parameter of the base.

        Returns:
            A number of parameters.
        """
        return self.count_trained(self.complete(settings), shapes)

    def frozen(self, settings: Settings, shapes: Shapes) -> int:
        """Give how many floating-point numbers are kept beside the base and what is trained.

        Args:
            settings: Some of the names of `settings`.
            shapes: As for `trained`.

        Returns:
            A number of numbers: factors, projections, bases. Indices, and a few numbers a layer to
            recognise the base by, are not counted.
        """
        return self.count_frozen(self.complete(settings), shapes)


@dataclass
class Attached:
    """What `curlora.attach` remembers on the model it returns."""

    kind: str
    """A key of `ADAPTERS`."""
    settings: dict[str, Any]
    """All settings, as completed."""
    initial: dict[str, tuple[Tensor, Tensor]] | None = None
    """Of a kind that changes the base when attached: (B0 times scale, A0) by module name."""


def adapter_kind(kind: str) -> AdapterKind:
    """Give an entry of the table.

    Args:
        kind: A key of `ADAPTERS`.

    Returns:
        What is known of it.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in ADAPTERS:
        raise ValueError(f"Unknown adapter {kind!r}.{_nearest(kind, ADAPTERS)}")
    return ADAPTERS[kind]


def adapter_config(kind: str, settings: Settings) -> PeftConfig:
    """Build the PEFT config of an adapter.

    Args:
        kind: A key of `ADAPTERS`.
        settings: Some of the names of the kind's `settings`.

    Returns:
        A config for `peft.get_peft_model`.

    Raises:
        ValueError: The kind or a setting is unknown, a setting is outside its range, or the kind
            adds nothing to the base.
    """
    config = adapter_kind(kind).build(settings)
    if config is None:
        raise ValueError(
            f"Adapter {kind!r} adds nothing to the base, so it has no PEFT config. "
            "Use `curlora.attach`, which prepares the base for it."
        )
    return config


# --------------------------------------------------------------------- checks of single settings


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def _check_optional_count(name: str, value: Any) -> None:
    if value is not None:
        _check_count(name, value)


def _check_factor(name: str, value: Any) -> None:
    if not _is_number(value) or value == 0:
        raise ValueError(f"`{name}` must be a finite number other than 0, got {value!r}.")


def _check_share(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1, got {value!r}.")


def _check_effective_rank(name: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    share = isinstance(value, float) and 0 < value < 1
    if not (whole or share):
        raise ValueError(
            f"`{name}` must be a share above 0 and below 1, or a whole number of directions to "
            f"keep, got {value!r}."
        )


def _check_targets(name: str, value: Any) -> None:
    named = isinstance(value, list | tuple | set | frozenset)
    if value is None or (isinstance(value, str) and value):
        return
    if not named or not value or not all(isinstance(item, str) for item in value):
        raise ValueError(
            f"`{name}` must be a list of module names (by their ends) or 'all-linear', got "
            f"{value!r}."
        )


def _check_positive(name: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive, finite number, got {value!r}.")


def _check_damping(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"`{name}` must be above 0 and at most 1, got {value!r}.")


def _one_of(*known: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")

    return check


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "r": _check_count,
    "m": _check_optional_count,
    "u": _check_optional_count,
    "alpha": _check_factor,
    "dropout": _check_share,
    "effective_rank": _check_effective_rank,
    "norm": _one_of("none", "released", "bounded"),
    "merge": _one_of("none", "M1", "M2"),
    "init": _one_of("truncated", "released"),
    "merge_every": _check_count,
    "s": _check_positive,
    "edge": _check_positive,
    "share": _check_share,
    "decay": _check_damping,
    "target_modules": _check_targets,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."


# ------------------------------------------------------------------------------------- configs


def _curlora_config(values: dict[str, Any]) -> PeftConfig:
    from curlora.curlora import CurloraConfig

    return CurloraConfig(**values)


def _secura_config(values: dict[str, Any]) -> PeftConfig:
    from curlora.secura import SecuraConfig

    return SecuraConfig(**values)


def _lora_config(values: dict[str, Any], **options: Any) -> PeftConfig:
    from peft import LoraConfig

    alpha: Any = values["alpha"]
    return LoraConfig(
        r=values["r"],
        lora_alpha=alpha,
        lora_dropout=values["dropout"],
        target_modules=values["target_modules"],
        **options,
    )


def _positive_alpha(kind: str, values: dict[str, Any]) -> None:
    if values["alpha"] < 0:
        raise ValueError(
            f"`alpha` must be positive for {kind!r}, got {values['alpha']!r}: its start divides "
            "singular values by alpha / r and takes the root."
        )


def _rslora_config(values: dict[str, Any]) -> PeftConfig:
    return _lora_config(values, use_rslora=True)


def _dora_config(values: dict[str, Any]) -> PeftConfig:
    return _lora_config(values, use_dora=True)


def _pissa_config(values: dict[str, Any]) -> PeftConfig:
    _positive_alpha("pissa", values)
    return _lora_config(values, init_lora_weights="pissa")


def _mica_config(values: dict[str, Any]) -> PeftConfig:
    return _lora_config(values, init_lora_weights="mica")


def _corda_config(values: dict[str, Any]) -> PeftConfig:
    from curlora.peft_bridge import CordaConfig

    _positive_alpha("corda", values)
    knowledge_preserving = CordaConfig(corda_method="kpm")
    return _lora_config(values, init_lora_weights="corda", corda_config=knowledge_preserving)


def _miss_config(values: dict[str, Any]) -> PeftConfig:
    from peft import MissConfig

    return MissConfig(
        r=values["r"], miss_dropout=values["dropout"], target_modules=values["target_modules"]
    )


def _osf_config(values: dict[str, Any]) -> PeftConfig:
    from peft import OSFConfig

    return OSFConfig(
        effective_rank=values["effective_rank"], target_modules=values["target_modules"]
    )


def _tinylora_config(values: dict[str, Any]) -> PeftConfig:
    from peft import TinyLoraConfig

    return TinyLoraConfig(
        r=values["r"],
        u=_tinylora_u(values),
        tinylora_dropout=values["dropout"],
        target_modules=values["target_modules"],
    )


def _randlora_config(values: dict[str, Any]) -> PeftConfig:
    from peft import RandLoraConfig

    return RandLoraConfig(
        r=values["r"],
        randlora_alpha=values["alpha"],
        randlora_dropout=values["dropout"],
        target_modules=values["target_modules"],
    )


# -------------------------------------------------------------------------------------- counts


def _sides(shapes: Shapes) -> list[tuple[int, int]]:
    return [(shape[0], shape[1]) for shape in shapes.values()]


def _nothing(_: dict[str, Any], __: Shapes) -> int:
    return 0


def _two_factors(values: dict[str, Any], shapes: Shapes) -> int:
    return sum(values["r"] * (d_out + d_in) for d_out, d_in in _sides(shapes))


def _input_factor(values: dict[str, Any], shapes: Shapes) -> int:
    return sum(values["r"] * d_in for _, d_in in _sides(shapes))


def _output_factor(values: dict[str, Any], shapes: Shapes) -> int:
    return sum(values["r"] * d_out for d_out, _ in _sides(shapes))


def _core(values: dict[str, Any], shapes: Shapes) -> int:
    return values["r"] ** 2 * len(shapes)


def _dora_trained(values: dict[str, Any], shapes: Shapes) -> int:
    return _two_factors(values, shapes) + sum(d_out for d_out, _ in _sides(shapes))


def secura_width(values: Settings) -> int:
    """Give the inner width of SECURA's core: by default in the released proportion, 200 to 150.

    Args:
        values: Its settings `r` and `m`.

    Returns:
        `m`, or 4/3 r rounded up where `m` is None.
    """
    return math.ceil(4 * values["r"] / 3) if values["m"] is None else values["m"]


def _secura_trained(values: dict[str, Any], shapes: Shapes) -> int:
    return 2 * values["r"] * secura_width(values) * len(shapes)


def _secura_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    merged_sum = values["r"] * secura_width(values) if values["merge"] == "M2" else 0
    return _two_factors(values, shapes) + _core(values, shapes) + merged_sum * len(shapes)


def _osf_kept(values: dict[str, Any], d_out: int, d_in: int) -> int:
    kept, smaller = values["effective_rank"], min(d_out, d_in)
    return int(smaller * kept) if isinstance(kept, float) else min(kept, smaller)


def _osf_trained(values: dict[str, Any], shapes: Shapes) -> int:
    return sum(
        (min(d_out, d_in) - _osf_kept(values, d_out, d_in)) * (d_out + d_in + 1)
        for d_out, d_in in _sides(shapes)
    )


def _osf_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    # The starting factors, and of a matrix that is not square the kept vectors of its longer side.
    kept_vectors = sum(
        0 if d_out == d_in else _osf_kept(values, d_out, d_in) * max(d_out, d_in)
        for d_out, d_in in _sides(shapes)
    )
    return _osf_trained(values, shapes) + kept_vectors


def _tinylora_u(values: dict[str, Any]) -> int:
    return values["r"] ** 2 if values["u"] is None else values["u"]


def _tinylora_trained(values: dict[str, Any], shapes: Shapes) -> int:
    return _tinylora_u(values) * len(shapes)


def _tinylora_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    return _two_factors(values, shapes) + _tinylora_u(values) * _core(values, shapes)


def _randlora_trained(values: dict[str, Any], shapes: Shapes) -> int:
    r = values["r"]
    return sum(
        math.ceil(min(d_out, d_in) / r) * (r + min(d_out, d_in)) for d_out, d_in in _sides(shapes)
    )


def _randlora_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    # One pair of bases for all layers, as wide as the widest.
    if not shapes:
        return 0
    sides = _sides(shapes)
    widest = (max(d_out for d_out, _ in sides), max(d_in for _, d_in in sides))
    shorter, longer = min(widest), max(widest)
    return values["r"] * (shorter + longer * math.ceil(shorter / values["r"]))


def _every_parameter(_: dict[str, Any], shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


# --------------------------------------------------------------------------------------- table

_LORA_SETTINGS = {"r": 16, "alpha": 16.0, "dropout": 0.0, "target_modules": None}


def _kind(name: str, settings: Mapping[str, Any], summary: str, **rest: Any) -> AdapterKind:
    return AdapterKind(name, summary, MappingProxyType(dict(settings)), **rest)


_KINDS = (
    _kind(
        "curlora",
        {
            "r": 16,
            "alpha": 1.0,
            "temperature": 1.0,
            "target_modules": None,
            "selection_seed": 0,
            "selection": "inverted",
            "eps": 0.0,
            "with_replacement": False,
            "preset": None,
        },
        "CURLoRA (Fawi 2024, arXiv 2408.14572): W + alpha C U R, trains U (r, r).",
        make_config=_curlora_config,
        count_trained=_core,
        count_frozen=_two_factors,
        linear_factors="core",
        additive=True,
    ),
    _kind(
        "secura",
        {
            "r": 16,
            "m": None,
            "norm": "bounded",
            "s": 6.0,
            "merge": "none",
            "merge_every": 1,
            "edge": 1.2,
            "share": 0.9,
            "decay": 0.99,
            "init": "truncated",
            "target_modules": None,
        },
        "SECURA (Zhang et al. 2025, arXiv 2502.18168): W + C A B R with the change held back.",
        make_config=_secura_config,
        count_trained=_secura_trained,
        count_frozen=_secura_frozen,
    ),
    _kind(
        "lora",
        _LORA_SETTINGS,
        "LoRA (Hu et al. 2021, arXiv 2106.09685): W + alpha / r B A.",
        make_config=_lora_config,
        count_trained=_two_factors,
        count_frozen=_nothing,
        linear_factors="lora",
        additive=True,
    ),
    _kind(
        "rslora",
        _LORA_SETTINGS,
        "rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): LoRA scaled by alpha / sqrt(r).",
        make_config=_rslora_config,
        count_trained=_two_factors,
        count_frozen=_nothing,
        linear_factors="lora",
        additive=True,
    ),
    _kind(
        "dora",
        _LORA_SETTINGS,
        "DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA on the direction, a magnitude per output.",
        make_config=_dora_config,
        count_trained=_dora_trained,
        count_frozen=_nothing,
    ),
    _kind(
        "pissa",
        _LORA_SETTINGS,
        "PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA that starts as W's top r components.",
        make_config=_pissa_config,
        count_trained=_two_factors,
        count_frozen=_two_factors,
        changes_base="init",
        linear_factors="lora",
        reads_weight=True,
    ),
    _kind(
        "corda",
        _LORA_SETTINGS,
        "CorDA (Yang et al. 2024, arXiv 2406.05223), knowledge-preserving: LoRA that starts as the "
        "components which matter least to given text.",
        make_config=_corda_config,
        count_trained=_two_factors,
        count_frozen=_two_factors,
        changes_base="init",
        linear_factors="lora",
        reads_weight=True,
    ),
    _kind(
        "mica",
        _LORA_SETTINGS,
        "MiCA (arXiv 2604.01694): LoRA with B frozen to W's r least left singular vectors.",
        make_config=_mica_config,
        count_trained=_input_factor,
        count_frozen=_output_factor,
        reads_weight=True,
    ),
    _kind(
        "miss",
        {"r": 16, "dropout": 0.0, "target_modules": None},
        "MiSS (Kang and Yin 2024, arXiv 2409.15371): one matrix (r, d_out) shared by all slices.",
        make_config=_miss_config,
        count_trained=_output_factor,
        count_frozen=_nothing,
        conv1d=False,
    ),
    _kind(
        "osf",
        {"effective_rank": 0.5, "target_modules": None},
        "OSF (Nayak et al. 2025, arXiv 2504.07097): trains the lesser singular components of W, "
        "with gradients orthogonal to the others.",
        make_config=_osf_config,
        count_trained=_osf_trained,
        count_frozen=_osf_frozen,
        conv1d=False,
        reads_weight=True,
    ),
    _kind(
        "tinylora",
        {"r": 16, "u": None, "dropout": 0.0, "target_modules": None},
        "TinyLoRA (arXiv 2602.04118): a core of r x r between W's top r singular vectors, "
        "spanned by u = r^2 fixed random matrices (LoRA-XS, arXiv 2405.17604, in another basis).",
        make_config=_tinylora_config,
        count_trained=_tinylora_trained,
        count_frozen=_tinylora_frozen,
        reads_weight=True,
    ),
    _kind(
        "randlora",
        {"r": 32, "alpha": 640.0, "dropout": 0.0, "target_modules": None},
        "RandLoRA (Albert et al. 2025, arXiv 2502.00987): full rank from scaled random bases.",
        make_config=_randlora_config,
        count_trained=_randlora_trained,
        count_frozen=_randlora_frozen,
    ),
    _kind(
        "full",
        {},
        "No adapter: every parameter of the base is trained.",
        make_config=None,
        count_trained=_every_parameter,
        count_frozen=_nothing,
        changes_base="train",
        reads_weight=True,
    ),
    _kind(
        "head_only",
        {},
        "No adapter and a frozen base: only linear heads, which their owner trains.",
        make_config=None,
        count_trained=_nothing,
        count_frozen=_nothing,
    ),
)

ADAPTERS: dict[str, AdapterKind] = {kind.name: kind for kind in _KINDS}
"""From the name of a kind to what is known of it."""
