"""The adapters a run can name: one table, from a kind to all that is known of it in advance.

A kind says how its PEFT config is made of the plain settings of an experiment file, which settings
it has and their defaults, whether it touches the base, and how many numbers it will train. This
module imports neither torch nor PEFT until a config is built, so that a plan can be made without
them. Every kind of `ADAPTERS` goes through the same tests
(`tests/curlora/test_every_adapter.py`); `curlora.attach` puts one on a model.

Shapes are those of the targeted linear layers, (d_out, d_in) by module name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from curlora.adapters.kind import AdapterKind
from curlora.adapters.peft_kinds import (
    corda_config,
    curlora_config,
    dora_config,
    lora_config,
    mica_config,
    miss_config,
    osf_config,
    pissa_config,
    randlora_config,
    rslora_config,
    secura_config,
    tinylora_config,
)
from curlora.adapters.settings import SECURA_SETTINGS, Settings, nearest
from curlora.adapters.sizes import (
    core,
    dora_trained,
    every_parameter,
    input_factor,
    nothing,
    osf_frozen,
    osf_trained,
    output_factor,
    randlora_frozen,
    randlora_trained,
    secura_frozen,
    secura_trained,
    tinylora_frozen,
    tinylora_trained,
    two_factors,
)

if TYPE_CHECKING:
    from peft import PeftConfig


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
        raise ValueError(f"Unknown adapter {kind!r}.{nearest(kind, ADAPTERS)}")
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
        make_config=curlora_config,
        count_trained=core,
        count_frozen=two_factors,
        linear_factors="core",
        additive=True,
    ),
    _kind(
        "secura",
        SECURA_SETTINGS,
        "SECURA (Zhang et al. 2025, arXiv 2502.18168): W + C A B R with the change held back.",
        make_config=secura_config,
        count_trained=secura_trained,
        count_frozen=secura_frozen,
    ),
    _kind(
        "lora",
        _LORA_SETTINGS,
        "LoRA (Hu et al. 2021, arXiv 2106.09685): W + alpha / r B A.",
        make_config=lora_config,
        count_trained=two_factors,
        count_frozen=nothing,
        linear_factors="lora",
        additive=True,
    ),
    _kind(
        "rslora",
        _LORA_SETTINGS,
        "rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): LoRA scaled by alpha / sqrt(r).",
        make_config=rslora_config,
        count_trained=two_factors,
        count_frozen=nothing,
        linear_factors="lora",
        additive=True,
    ),
    _kind(
        "dora",
        _LORA_SETTINGS,
        "DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA on the direction, a magnitude per output.",
        make_config=dora_config,
        count_trained=dora_trained,
        count_frozen=nothing,
    ),
    _kind(
        "pissa",
        _LORA_SETTINGS,
        "PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA that starts as W's top r components.",
        make_config=pissa_config,
        count_trained=two_factors,
        count_frozen=two_factors,
        changes_base="init",
        linear_factors="lora",
        reads_weight=True,
    ),
    _kind(
        "corda",
        _LORA_SETTINGS,
        "CorDA (Yang et al. 2024, arXiv 2406.05223), knowledge-preserving: LoRA that starts as the "
        "components which matter least to given text.",
        make_config=corda_config,
        count_trained=two_factors,
        count_frozen=two_factors,
        changes_base="init",
        linear_factors="lora",
        reads_weight=True,
    ),
    _kind(
        "mica",
        _LORA_SETTINGS,
        "MiCA (arXiv 2604.01694): LoRA with B frozen to W's r least left singular vectors.",
        make_config=mica_config,
        count_trained=input_factor,
        count_frozen=output_factor,
        reads_weight=True,
    ),
    _kind(
        "miss",
        {"r": 16, "dropout": 0.0, "target_modules": None},
        "MiSS (Kang and Yin 2024, arXiv 2409.15371): one matrix (r, d_out) shared by all slices.",
        make_config=miss_config,
        count_trained=output_factor,
        count_frozen=nothing,
        conv1d=False,
    ),
    _kind(
        "osf",
        {"effective_rank": 0.5, "target_modules": None},
        "OSF (Nayak et al. 2025, arXiv 2504.07097): trains the lesser singular components of W, "
        "with gradients orthogonal to the others.",
        make_config=osf_config,
        count_trained=osf_trained,
        count_frozen=osf_frozen,
        conv1d=False,
        reads_weight=True,
    ),
    _kind(
        "tinylora",
        {"r": 16, "u": None, "dropout": 0.0, "target_modules": None},
        "TinyLoRA (arXiv 2602.04118): a core of r x r between W's top r singular vectors, "
        "spanned by u = r^2 fixed random matrices (LoRA-XS, arXiv 2405.17604, in another basis).",
        make_config=tinylora_config,
        count_trained=tinylora_trained,
        count_frozen=tinylora_frozen,
        reads_weight=True,
    ),
    _kind(
        "randlora",
        {"r": 32, "alpha": 640.0, "dropout": 0.0, "target_modules": None},
        "RandLoRA (Albert et al. 2025, arXiv 2502.00987): full rank from scaled random bases.",
        make_config=randlora_config,
        count_trained=randlora_trained,
        count_frozen=randlora_frozen,
    ),
    _kind(
        "full",
        {},
        "No adapter: every parameter of the base is trained.",
        make_config=None,
        count_trained=every_parameter,
        count_frozen=nothing,
        changes_base="train",
        reads_weight=True,
    ),
    _kind(
        "head_only",
        {},
        "No adapter and a frozen base: only linear heads, which their owner trains.",
        make_config=None,
        count_trained=nothing,
        count_frozen=nothing,
    ),
)

ADAPTERS: dict[str, AdapterKind] = {kind.name: kind for kind in _KINDS}
"""From the name of a kind to what is known of it."""
