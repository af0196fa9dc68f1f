"""CURLoRA to plain LoRA, exactly: an adapter that loads wherever PEFT's LoRA does.

alpha C U R = B A with B = alpha C (d_out, r) and A = U R (r, d_in), so no approximation is needed.
"""

from pathlib import Path
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from curlora.curlora import CurloraConfig, CurloraLayer, curlora_layers


def export_lora(model: nn.Module, folder: str | Path, *, adapter_name: str | None = None) -> Path:
    """Write a CURLoRA adapter as a plain LoRA adapter that computes the same.

    The export is larger than the adapter: r (d_in + d_out) numbers a layer in float32 instead of
    r^2. Modules trained in full (`modules_to_save`) are written with it.

    Args:
        model: A PEFT model with a CURLoRA adapter, merged or not.
        folder: Where to write `adapter_config.json` and `adapter_model.safetensors`; made if
            missing.
        adapter_name: Which adapter; by default the active one.

    Returns:
        The folder.

    Raises:
        TypeError: `model` is not a PEFT model.
        ValueError: There is no such CURLoRA adapter, or several are active and none is named.
    """
    if not isinstance(model, PeftModel):
        raise TypeError(
            f"`model` must be a PeftModel with a CURLoRA adapter, got {type(model).__name__}. "
            "Export before `merge_and_unload`."
        )
    name = adapter_name or _only_active(model)
    known = [key for key, value in model.peft_config.items() if isinstance(value, CurloraConfig)]
    if name not in known:
        raise ValueError(f"There is no CURLoRA adapter {name!r}. CURLoRA adapters here: {known}.")
    config = cast(CurloraConfig, model.peft_config[name])
    layers = curlora_layers(model, name)
    tensors = _trained_in_full(model, name, layers)
    for module_name, layer in layers.items():
        B, A = _lora_factors(layer, name)
        tensors[f"base_model.model.{module_name}.lora_A.weight"] = A
        tensors[f"base_model.model.{module_name}.lora_B.weight"] = B
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    transposed = any(layer.is_transposed for layer in layers.values())
    _lora_config(config, fan_in_fan_out=transposed).save_pretrained(str(folder))
    return folder


def _only_active(model: PeftModel) -> str:
    active = model.active_adapters
    if len(active) != 1:
        raise ValueError(f"Adapters {active} are active. Name the one to export in `adapter_name`.")
    return active[0]


def _lora_factors(layer: CurloraLayer, adapter_name: str) -> tuple[Tensor, Tensor]:
    factors = layer.factors(adapter_name)
    C, R = factors.C.detach().float(), factors.R.detach().float()
    U = layer.cur_U[adapter_name].detach().float()
    B = layer.cur_settings[adapter_name].alpha * C
    return B.cpu().contiguous(), (U @ R).cpu().contiguous()


def _trained_in_full(
    model: PeftModel, adapter_name: str, layers: dict[str, CurloraLayer]
) -> dict[str, Tensor]:
    """Give what is saved with the adapter beside the adapted layers, under PEFT's names."""
    saved = get_peft_model_state_dict(model, adapter_name=adapter_name)
    adapted = tuple(f"base_model.model.{name}." for name in layers)
    return {
        key: cast(Tensor, value).detach().cpu().contiguous()
        for key, value in saved.items()
        if not key.startswith(adapted)
    }


def _lora_config(config: CurloraConfig, *, fan_in_fan_out: bool) -> LoraConfig:
    # LoRA scales by lora_alpha / r. Equal everywhere, they leave the scale to B.
    return LoraConfig(
        r=config.r,
        lora_alpha=config.r,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.rank_pattern),
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern,
        modules_to_save=config.modules_to_save,
        fan_in_fan_out=fan_in_fan_out,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
