"""A fresh adapter for every task, the earlier ones frozen and their updates summed.

O-LoRA (Wang et al. 2023, arXiv 2310.14152) keeps W + sum_i B_i A_i with all but the last pair
frozen; EWC-LoRA (arXiv 2602.17559) adds each task's pair to the weights, which is the same sum. The
base itself is not written here: earlier adapters are further adapters of the same PEFT model, so
disabling them gives the untouched base, and on disk they become one adapter with the same output.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from curlora.adapters.attached import ATTACHED
from curlora.adapters.curlora_layer import CurloraLinear
from curlora.adapters.files import sort_names
from curlora.adapters.saving import write_marker
from curlora.permissions import write_tensors

_OWN = "default"
_EARLIER = "earlier_{}"


def freeze_earlier(model: nn.Module, earlier: Sequence[Mapping[str, Tensor]]) -> None:
    """Give a model the frozen adapters of earlier tasks, beside the one that is trained.

    Those that it has already are left alone.

    Args:
        model: A `PeftModel` with a trained adapter "default" of an additive kind.
        earlier: The trained tensors of each earlier task, by their names in the model, in order.

    Raises:
        TypeError: It is no PEFT model.
    """
    if not isinstance(model, PeftModel):
        raise TypeError(
            f"Earlier adapters can be kept in a PeftModel only, got {type(model).__name__}."
        )
    own = dict(model.named_parameters())
    names = [_EARLIER.format(index) for index in range(len(earlier))]
    for name, tensors in zip(names, earlier, strict=True):
        if name in model.peft_config:
            continue
        config = copy.deepcopy(model.peft_config[_OWN])
        if isinstance(config, LoraConfig):
            config.lora_dropout = 0.0  # what is frozen is not learnt with noise
        model.add_adapter(name, config)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for place, tensor in tensors.items():
                kept = parameters[_renamed(place, name)]
                kept.data = tensor.detach().to(own[place].device, own[place].dtype).clone()
    cast(Any, model.base_model).set_adapter([_OWN, *names])
    for place, parameter in model.named_parameters():
        if any(f".{name}" in place for name in names):
            parameter.requires_grad_(False)


def _renamed(place: str, adapter: str) -> str:
    return place.replace(f".{_OWN}.", f".{adapter}.") if f".{_OWN}." in place else (
        place.removesuffix(f".{_OWN}") + f".{adapter}"
    )  # fmt: skip


def fresh_values(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """What the trained adapter's tensors are when a task begins.

    LoRA's A is uniform in +-1 / sqrt(d_in), as PEFT starts it; B and CURLoRA's U are zero.

    Args:
        model: A model with an adapter of an additive kind.
        seed: Of the random numbers.

    Returns:
        New values of the trainable parameters, by name.
    """
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        value = torch.zeros(parameter.shape, dtype=torch.float32)
        if ".lora_A." in name:
            bound = 1.0 / math.sqrt(parameter.shape[1])
            value.uniform_(-bound, bound, generator=generator)
        values[name] = value.to(parameter.device, parameter.dtype)
    return values


def save_combined(model: nn.Module, folder: str | Path) -> Path:
    """Write the trained adapter and the frozen ones of earlier tasks as one that does the same.

    CURLoRA's cores add up, their C and R being the same. LoRA's factors are put side by side:
    sum_i s_i B_i A_i = [s_1 B_1, s_2 B_2, ...] [A_1; A_2; ...], of the summed rank.

    Args:
        model: A `PeftModel` as `freeze_earlier` leaves it.
        folder: Where to write; made if missing.

    Returns:
        The folder, as `curlora.load_adapter` reads it.
    """
    wrapped = cast(PeftModel, model)
    names = [_OWN, *(n for n in wrapped.peft_config if n != _OWN)]
    folder = Path(folder)
    if any(isinstance(layer, CurloraLinear) for layer in model.modules()):
        return _save_summed_cores(wrapped, names, folder)
    tensors: dict[str, Tensor] = {}
    rank = 0
    for place, layer in _lora_layers(wrapped):
        A = torch.cat([layer.lora_A[n].weight.detach().float() for n in names])
        B = torch.cat(
            [layer.scaling[n] * layer.lora_B[n].weight.detach().float() for n in names], dim=1
        )
        tensors[f"{place}.lora_A.weight"] = A.cpu().contiguous()
        tensors[f"{place}.lora_B.weight"] = B.cpu().contiguous()
        rank = A.shape[0]
    own = cast(LoraConfig, wrapped.peft_config[_OWN])
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=own.target_modules,
        fan_in_fan_out=own.fan_in_fan_out,
        task_type=own.task_type,
        base_model_name_or_path=own.base_model_name_or_path,
        revision=own.revision,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    config.save_pretrained(str(folder))
    sort_names(folder)
    _write_marker(model, folder, "lora", "lora", {"r": rank, "alpha": float(rank)})
    return folder


def _lora_layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and _OWN in cast(Any, module).lora_A:
            yield name, module


def _save_summed_cores(model: PeftModel, names: Sequence[str], folder: Path) -> Path:
    kept: dict[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=_OWN, save_embedding_layers=False
    )
    tensors = {
        key: tensor.detach().cpu().contiguous().clone()
        for key, tensor in kept.items()
        if not any(f".{name}" in key for name in names if name != _OWN)
    }
    for place, layer in model.named_modules():
        if isinstance(layer, CurloraLinear) and _OWN in layer.cur_U:
            total = torch.stack([layer.cur_U[n].detach().float() for n in names]).sum(0)
            [key] = [k for k in tensors if k.startswith(f"{place}.cur_U")]
            tensors[key] = total.to(tensors[key].dtype).cpu()
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    config = copy.deepcopy(model.peft_config[_OWN])
    config.inference_mode = True
    config.save_pretrained(str(folder))
    sort_names(folder)
    _write_marker(model, folder, "curlora", "peft", {})
    return folder


def _write_marker(
    model: nn.Module, folder: Path, kind: str, stored: str, changed: Mapping[str, Any]
) -> None:
    record = getattr(model, ATTACHED, None)
    settings = {**(record.settings if record is not None else {}), **changed}
    write_marker(folder, record.kind if record is not None else kind, stored, settings)
