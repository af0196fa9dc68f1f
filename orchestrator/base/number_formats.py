"""In which numbers a base's weights are kept: precision, quantisation, and the bytes they take."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.base.errors import ModelError
from orchestrator.spec.sections import ModelSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def quantisation_options(
    spec: ModelSpec, precision: str, device: torch.device | str
) -> dict[str, Any]:
    """What `from_pretrained` needs for the form of quantisation that is asked for."""
    if spec.quantization is None:
        return {}
    package = "torchao" if spec.quantization == "torchao_int8" else "bitsandbytes"
    if importlib.util.find_spec(package) is None:
        raise ModelError(
            f"`model.quantization: {spec.quantization}` needs the package {package}, which is not "
            "installed. Install the extra `quantised`: pip install -e '.[quantised]'."
        )
    from transformers import BitsAndBytesConfig, TorchAoConfig

    config: Any
    if spec.quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=DTYPES[precision],
        )
    elif spec.quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
        # It says at every product that it casts to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    return {"quantization_config": config, "device_map": {"": torch.device(device)}}


def memory_footprint(model: nn.Module) -> dict[str, int]:
    """The bytes that a model's tensors take on this worker, by dtype.

    Args:
        model: Any model, quantised or partitioned by ZeRO stage 3 or neither. What quantisation
            keeps beside its weights (scales and tables) counts; a tensor that is shared counts
            once.

    Returns:
        From the dtype's name ("float32", "uint8") to bytes.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    for tensor in _stored(model):
        if tensor.numel() == 0 or tensor.is_meta or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        name = str(tensor.dtype).removeprefix("torch.")
        found[name] = found.get(name, 0) + tensor.numel() * tensor.element_size()
    return found


def _stored(model: nn.Module) -> Iterator[Tensor]:
    """The plain tensors behind a model's parameters, buffers and quantisation."""
    tensor: Any
    for tensor in (*model.parameters(), *model.buffers()):
        part = getattr(tensor, "ds_tensor", tensor)  # this worker's part under ZeRO stage 3
        inner = part.__tensor_flatten__()[0] if hasattr(part, "__tensor_flatten__") else None
        yield from (part,) if inner is None else (getattr(part, name) for name in inner)
        yield from _scales(getattr(tensor, "quant_state", None), ("absmax", "code", "offset"))
        yield from _scales(tensor, ("SCB",))
    for module in model.modules():
        yield from _scales(getattr(module, "state", None), ("SCB",))


def _scales(holder: Any, names: tuple[str, ...]) -> Iterator[Tensor]:
    for name in names:
        value = getattr(holder, name, None)
        if isinstance(value, Tensor):
            yield value
