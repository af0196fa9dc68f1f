"""An adapter of any kind onto a base model.

PiSSA and CorDA move a part of the base into the adapter: W becomes W - s B0 A0. On the untouched
base they are s (B A - B0 A0) = s [B, -B0] [A; A0], so nothing has to be recomputed on loading. On
the attached model the original base is gone up to rounding, so everything that would present the
remainder as the base (`disable_adapter`, `unload`, `delete_adapter`) is refused; a copy of the
originals would cost the memory of every targeted weight for something that load_adapter gives.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from curlora.adapters.attached import ATTACHED, Attached
from curlora.adapters.export import initial_factors
from curlora.peft_bridge import (
    BaseTuner,
    BaseTunerLayer,
    include_all_linear_layers,
    preprocess_corda,
)
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.table import ADAPTERS, adapter_kind


def attach(
    base: nn.Module,
    kind: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    text: Iterable[Tensor] | None = None,
) -> nn.Module:
    """Put an adapter on a base model and say what trains.

    The same base, settings, seed and text give the same adapter. The seed becomes torch's own.

    Args:
        base: A model of transformers, with its weights loaded. It is changed in place.
        kind: A key of `ADAPTERS`.
        settings: Some of the kind's settings.
        seed: For what starts at random.
        text: The knowledge to keep, for `corda`: batches of token ids (B, L) without padding.

    Returns:
        A `PeftModel`; for `full` and `head_only` the base itself, with all or none of its
        parameters to be trained.

    Raises:
        ValueError: A setting is wrong or does not fit the base, the base is quantised where its
            weights are needed as numbers, `text` is missing where it is needed or given where not,
            or no layer is targeted.
    """
    entry = adapter_kind(kind)
    values = entry.complete(settings)
    _check_text(entry, text)
    _check_base(entry, base)
    record = Attached(kind, values)
    torch.manual_seed(seed)
    config = entry.build(values)
    if config is None:
        base.requires_grad_(entry.trains_base)
        setattr(base, ATTACHED, record)
        return base
    layers = targeted_layers(base, config)
    _check_layers(entry, values, layers)
    if hasattr(config, "fan_in_fan_out") and any(isinstance(m, Conv1D) for m in layers.values()):
        cast(Any, config).fan_in_fan_out = True
    if entry.reads_text:
        _measure_inputs(kind, base, config, layers, cast(Iterable[Tensor], text))
    model = cast(PeftModel, get_peft_model(cast(PreTrainedModel, base), config))
    if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(f"No layer of the base was given an adapter of kind {kind!r}.")
    if entry.changes_base == "init":
        record.initial = initial_factors(model)
        _refuse_the_base_of(model, kind)
    setattr(model, ATTACHED, record)
    return model


def targeted_layers(base: nn.Module, config: PeftConfig) -> dict[str, nn.Module]:
    """Give the layers of a base that an adapter would adapt, by PEFT's own rule.

    Args:
        base: The model.
        config: The adapter's config; "all-linear" is replaced in it by the layers' names.

    Returns:
        Layers by name, in the model's order; empty where PEFT chooses by the model's family.

    Raises:
        ValueError: Nothing is targeted.
    """
    targets = getattr(config, "target_modules", None)
    if targets is None:
        return {}
    include_all_linear_layers(config, base)
    layers = {
        name: module
        for name, module in base.named_modules()
        if name and BaseTuner._check_target_module_exists(config, name)
    }
    if not layers:
        raise ValueError(
            f"`target_modules` {targets!r} name no layer of the base. Its linear layers end in: "
            f"{', '.join(_linear_names(base))}."
        )
    return layers


def _linear_names(base: nn.Module) -> list[str]:
    linear = (nn.Linear, Conv1D)
    return sorted({n.split(".")[-1] for n, m in base.named_modules() if isinstance(m, linear)})


def _check_text(entry: AdapterKind, text: Iterable[Tensor] | None) -> None:
    if entry.reads_text and text is None:
        raise ValueError(
            f"Adapter {entry.name!r} needs `text`: batches of token ids (B, L) of the knowledge to "
            "keep. Name it, or choose 'mica', which needs none."
        )
    if not entry.reads_text and text is not None:
        reading = ", ".join(repr(name) for name, kind in ADAPTERS.items() if kind.reads_text)
        raise ValueError(f"Adapter {entry.name!r} reads no `text`. Only {reading} does; drop it.")


def _check_base(entry: AdapterKind, base: nn.Module) -> None:
    if getattr(base, ATTACHED, None) is not None or isinstance(base, PeftModel):
        raise ValueError(
            f"The base already has an adapter, so {entry.name!r} would not start from it. Load the "
            "base again."
        )
    if entry.reads_weight and getattr(base, "is_quantized", False):
        fitting = ", ".join(name for name, kind in ADAPTERS.items() if not kind.reads_weight)
        raise ValueError(
            f"Adapter {entry.name!r} reads or writes the weights of the base as numbers, but the "
            f"base is quantised. Load it unquantised, or choose one of: {fitting}."
        )


def _check_layers(
    entry: AdapterKind, values: Mapping[str, Any], layers: Mapping[str, nn.Module]
) -> None:
    for name, layer in layers.items():
        if isinstance(layer, Conv1D) and not entry.conv1d:
            raise ValueError(
                f"Adapter {entry.name!r} cannot adapt `{name}`, a Conv1D as GPT-2 has. Choose "
                "another adapter or base."
            )
        shape = tuple(getattr(getattr(layer, "weight", None), "shape", ()))
        # A quantised weight is packed: its shape says nothing.
        if not isinstance(layer, nn.Linear | Conv1D) or len(shape) != 2:
            continue
        smaller = min(shape)
        rank = values.get("r", 1)
        if rank > smaller and layer.weight.is_floating_point():
            raise ValueError(
                f"`r` must be at most min(d_in, d_out) = {smaller} in `{name}`, got {rank}. Lower "
                "`r`, or drop the layer from `target_modules`."
            )
        if reason := entry.misfit(dict(values), smaller):
            raise ValueError(f"The layer `{name}` cannot be adapted: {reason}.")


def _measure_inputs(
    kind: str,
    base: nn.Module,
    config: PeftConfig,
    layers: Mapping[str, nn.Module],
    text: Iterable[Tensor],
) -> None:
    """Let PEFT decompose every targeted weight against the inputs that the text gives it."""
    if not layers:
        raise ValueError(
            f"Adapter {kind!r} needs `target_modules`, so that their inputs are known."
        )
    device = next(base.parameters()).device
    rows = [row[None].to(device) for batch in text for row in batch]  # PEFT's hook takes one row
    if not rows:
        raise ValueError(f"`text` is empty: {kind!r} needs token ids of the knowledge to keep.")
    training = base.training

    def run() -> None:
        for row in rows:
            base(row)

    preprocess_corda(base, cast(Any, config), run_model=run)
    base.train(training)


def _refuse_the_base_of(model: PeftModel, kind: str) -> None:
    for name in ("disable_adapter_layers", "unload", "delete_adapter"):
        setattr(model.base_model, name, functools.partial(_refuse, kind, name))


def _refuse(kind: str, call: str, *_: Any, **__: Any) -> NoReturn:
    raise ValueError(
        f"`{call}` is refused: {kind!r} moved a part of the base into the adapter, so what is left "
        "is not the base. Save it with `curlora.save_adapter` and load it on the untouched base, "
        "where it can be disabled."
    )
