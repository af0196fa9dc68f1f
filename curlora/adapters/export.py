"""An adapter to plain LoRA, exactly: one that loads wherever PEFT's LoRA does.

An adapter is exported where its update of a layer is a product B A of low rank, as it stands:

=============== ================================== ===============================
kind            B (d_out, k)                       A (k, d_in)
=============== ================================== ===============================
curlora         alpha C                            U R
secura, no norm C                                  (A B + M) R
lora, mica, ... s B                                A
pissa, corda    [s B, -s B0]                       [A; A0], on the untouched base
tinylora        U_r S_r^(1/2)                      (sum_i v_i P_i) S_r^(1/2) V_r'
miss            its block, transposed              r x r identities side by side
osf             [U S, -U0 S0]                      [V; V0]
=============== ================================== ===============================
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curlora.adapters.attached import ATTACHED, Attached
from curlora.adapters.curlora_layer import CurloraLinear
from curlora.adapters.files import sort_names
from curlora.adapters.secura_layer import SecuraLinear
from curlora.peft_bridge import BaseTunerLayer, LoraLayer, MissLayer, OSFLayer, TinyLoraLayer
from curlora.permissions import write_tensors
from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.settings import maker

Factors = tuple[Tensor, Tensor]


def export_lora(model: nn.Module, folder: str | Path, *, adapter_name: str | None = None) -> Path:
    """Write an adapter as a plain LoRA adapter that computes the same on the untouched base.

    The export may be larger than the adapter: k (d_in + d_out) numbers a layer, in float32. Every
    layer has the rank k of the largest, filled up with zeros, and `lora_alpha` is k: the scale
    lora_alpha / k is 1 for every layer, also to what does not read `rank_pattern` or
    `alpha_pattern`. Modules trained in full (`modules_to_save`) are written with it.

    Args:
        model: A PEFT model, merged or not.
        folder: Where to write `adapter_config.json` and `adapter_model.safetensors`; made if
            missing.
        adapter_name: Which adapter; by default the active one.

    Returns:
        The folder.

    Raises:
        TypeError: `model` is not a PEFT model.
        ValueError: There is no such adapter, several are active and none is named, or its update
            is not a product of low rank.
    """
    if not isinstance(model, PeftModel):
        raise TypeError(
            f"`model` must be a PeftModel, got {type(model).__name__}. Export before "
            "`merge_and_unload`; a model without an adapter is exported as `merged`."
        )
    name = adapter_name or _only_active(model)
    if name not in model.peft_config:
        raise ValueError(f"There is no adapter {name!r}. Adapters here: {list(model.peft_config)}.")
    config = model.peft_config[name]
    layers = _adapted_layers(model, name)
    own = _own_factors(model)
    factors = _of_one_rank(_with_what_was_taken(model, config, _factors_of(layers, name, own)))
    tensors = _trained_in_full(model, name, layers)
    for module_name, (B, A) in factors.items():
        tensors[f"base_model.model.{module_name}.lora_A.weight"] = A
        tensors[f"base_model.model.{module_name}.lora_B.weight"] = B
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    transposed = any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values())
    rank = max(A.shape[0] for _, A in factors.values())
    _lora_config(config, rank, fan_in_fan_out=transposed).save_pretrained(str(folder))
    sort_names(folder)
    return folder


def _own_factors(model: PeftModel) -> Callable[[Any, str], Factors | None] | None:
    """What the kind of a model's adapter gives a layer's factors by, where it has a way itself."""
    record: Attached | None = getattr(model, ATTACHED, None)
    kind = None if record is None else ADAPTERS.get(record.kind)
    return None if kind is None or kind.as_lora is None else maker(kind.as_lora)


def initial_factors(model: PeftModel) -> dict[str, Factors]:
    """Give the factors of a LoRA adapter as they are now, to be subtracted when it is exported.

    Args:
        model: A model with one adapter of LoRA's family.

    Returns:
        (s B, A), float32 on the CPU, by the layer's name in the base.
    """
    name = _only_active(model)
    return _factors_of(_adapted_layers(model, name), name)


def _only_active(model: PeftModel) -> str:
    active = model.active_adapters
    if len(active) != 1:
        raise ValueError(f"Adapters {active} are active. Name the one to export in `adapter_name`.")
    return active[0]


def _adapted_layers(model: PeftModel, adapter_name: str) -> dict[str, BaseTunerLayer]:
    """Give the layers that an adapter adapts, by their name in the base."""
    base = cast(nn.Module, model.base_model.model)
    return {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, BaseTunerLayer)
        and adapter_name in module._all_available_adapter_names()
    }


def _factors_of(
    layers: dict[str, BaseTunerLayer],
    adapter_name: str,
    own: Callable[[Any, str], Factors | None] | None = None,
) -> dict[str, Factors]:
    result: dict[str, Factors] = {}
    for name, layer in layers.items():
        found = own(layer, adapter_name) if own is not None else None
        B, A = found or _low_rank(layer, adapter_name)
        result[name] = (_own(B), _own(A))
    return result


def _own(tensor: Tensor) -> Tensor:
    # A clone: a safetensors file holds no two names for one storage.
    return tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format)


def _low_rank(layer: BaseTunerLayer, name: str) -> Factors:
    """Give B (d_out, k) and A (k, d_in) with B A the update of a layer."""
    for layer_class, factors in _LOW_RANK.items():
        if isinstance(layer, layer_class):
            found = factors(layer, name)
            if found is not None:
                return found
    raise ValueError(
        f"The update of a {type(layer).__name__} is not a product of low rank, so no LoRA computes "
        "the same. Export it as `merged` weights instead."
    )


def _of_curlora(layer: Any, name: str) -> Factors:
    factors, U = layer.factors(name), layer.cur_U[name].detach().float()
    return layer.cur_settings[name].alpha * factors.C.float(), U @ factors.R.float()


def _of_secura(layer: Any, name: str) -> Factors | None:
    if layer.sec_rules[name].norm != "none":
        return None
    factors = layer.factors(name)
    core = (layer.sec_A[name] @ layer.sec_B[name] + layer.merged_core(name)).detach().float()
    return factors.C, core @ factors.R.float()


def _of_lora(layer: Any, name: str) -> Factors | None:
    if layer.use_dora.get(name, False):
        return None
    return layer.scaling[name] * layer.lora_B[name].weight, layer.lora_A[name].weight


def _of_tinylora(layer: Any, name: str) -> Factors:
    return layer.tinylora_B[name], layer._compute_R(name) @ layer.tinylora_A[name]


def _of_miss(layer: Any, name: str) -> Factors | None:
    block: Tensor = layer.miss_block[name]
    if block.dim() != 2 or block.shape[1] != layer.out_features:  # PEFT's other variants
        return None
    places = torch.arange(layer.in_features, device=block.device) % block.shape[0]
    return block.t(), nn.functional.one_hot(places, block.shape[0]).t()


def _of_osf(layer: Any, name: str) -> Factors:
    now = layer.osf_svd_params[name]
    U0, S0 = layer._osf_U_low_init[name], layer._osf_S_low_init[name]
    B = torch.cat([now["U_low"] * now["S_low"], -U0 * S0], dim=1)
    return B, torch.cat([now["V_low"], layer._osf_V_low_init[name]])


_LOW_RANK: dict[type[Any], Callable[[Any, str], Factors | None]] = {
    CurloraLinear: _of_curlora,
    SecuraLinear: _of_secura,
    LoraLayer: _of_lora,
    TinyLoraLayer: _of_tinylora,
    MissLayer: _of_miss,
    OSFLayer: _of_osf,
}


def _with_what_was_taken(
    model: PeftModel, config: PeftConfig, factors: dict[str, Factors]
) -> dict[str, Factors]:
    """Subtract what the adapter took from the base at its start, if it took anything."""
    start = getattr(config, "init_lora_weights", True)
    record: Attached | None = getattr(model, ATTACHED, None)
    if record is not None and record.initial is not None:
        initial = record.initial
        return {
            name: (torch.cat([B, -initial[name][0]], dim=1), torch.cat([A, initial[name][1]]))
            for name, (B, A) in factors.items()
        }
    if isinstance(start, str) and start.startswith(("pissa", "corda", "olora", "lora_ga")):
        raise ValueError(
            f"The adapter started with `init_lora_weights={start!r}`, which changes the base, and "
            "how it started was not kept. Adapt with `curlora.attach`, or export it as `merged`."
        )
    return factors


def _trained_in_full(
    model: PeftModel, adapter_name: str, layers: dict[str, BaseTunerLayer]
) -> dict[str, Tensor]:
    """Give what is saved with the adapter beside the adapted layers, under PEFT's names."""
    saved = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    adapted = tuple(f"base_model.model.{name}." for name in layers)
    return {
        key: cast(Tensor, value).detach().cpu().contiguous()
        for key, value in saved.items()
        if key.startswith("base_model.model.") and not key.startswith(adapted)
    }


def _of_one_rank(factors: dict[str, Factors]) -> dict[str, Factors]:
    """Fill factors up with zeros, which change no product, to the rank of the largest."""
    rank = max(A.shape[0] for _, A in factors.values())
    return {
        name: (
            nn.functional.pad(B, (0, rank - B.shape[1])),
            nn.functional.pad(A, (0, 0, 0, rank - A.shape[0])),
        )
        for name, (B, A) in factors.items()
    }


def _lora_config(config: PeftConfig, rank: int, *, fan_in_fan_out: bool) -> LoraConfig:
    kept = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    options: dict[str, Any] = {name: getattr(config, name, None) for name in kept}
    # LoRA scales by lora_alpha / r. Equal everywhere, they leave the scale to B.
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        **options,
        modules_to_save=getattr(config, "modules_to_save", None),
        fan_in_fan_out=fan_in_fan_out,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
