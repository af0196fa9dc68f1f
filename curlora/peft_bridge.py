"""The one door to PEFT's internals: everything this package takes from below `peft`'s public names.

PEFT has no plug-in mechanism: it registers a method only if its name is a member of the closed
enumeration `PeftType`. `register_method` adds the member first. Needs peft 0.21, which saves
adapters by structure and leaves integer buffers alone when it casts a layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.miss.layer import MissLayer
from peft.tuners.osf.layer import OSFLayer
from peft.tuners.tinylora.layer import TinyLoraLayer
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    check_adapters_to_merge,
)
from peft.tuners.tuners_utils import _get_in_out_features as in_out_features
from peft.tuners.tuners_utils import (
    _maybe_include_all_linear_layers as include_all_linear_layers,
)
from peft.utils import (
    PeftType,
    get_quantization_kwargs,
    register_peft_method,
    resolve_quantization_backend,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS,
)
from peft.utils.integrations import gather_params_ctx
from peft.utils.other import get_pattern_key
from torch import nn

__all__ = [
    "LORA_TARGETS",
    "BaseTuner",
    "BaseTunerLayer",
    "LoraLayer",
    "MissLayer",
    "OSFLayer",
    "TinyLoraLayer",
    "cast_adapter_buffers",
    "check_adapters_to_merge",
    "corda_config",
    "gather_params_ctx",
    "get_pattern_key",
    "get_quantization_kwargs",
    "in_out_features",
    "include_all_linear_layers",
    "keep_as_quantised",
    "peft_type",
    "preprocess_corda",
    "register_method",
    "resolve_quantization_backend",
]


def preprocess_corda(
    model: nn.Module, config: LoraConfig, *, run_model: Callable[[], None]
) -> None:
    """Let PEFT decompose the targeted weights against the inputs that a run gives them.

    Args:
        model: The base, changed: what was found is kept on its layers.
        config: As `corda_config` gives it.
        run_model: Runs the text through the model.
    """
    # PEFT's module needs `attrs`, which PEFT does not install: only CorDA may fail without it.
    from peft.tuners.lora.corda import preprocess_corda as preprocess

    preprocess(model, config, run_model=run_model)


def peft_type(name: str) -> PeftType:
    """Give PEFT's enumeration member for a method, adding it when PEFT does not have it.

    Args:
        name: The method's name in capitals.

    Returns:
        A member that pickles, compares and serialises like PEFT's own.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member: Any = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    type.__setattr__(PeftType, name, member)  # EnumMeta forbids the plain assignment
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


def corda_config(**arguments: Any) -> LoraConfig:
    """Build the config of a LoRA that starts as CorDA does, in the mode that keeps knowledge.

    Args:
        arguments: Of `LoraConfig`.

    Returns:
        A config for `preprocess_corda` and `get_peft_model`.
    """
    knowledge_preserving = CordaConfig(corda_method="kpm")
    return LoraConfig(**arguments, init_lora_weights="corda", corda_config=knowledge_preserving)


def register_method(name: str, *, config_class: type[Any], tuner_class: type[Any]) -> None:
    """Make PEFT build, save and load a method of ours, once per process.

    Args:
        name: The method's name in lower case.
        config_class: Its `PeftConfig`.
        tuner_class: Its `BaseTuner`, which carries the prefix of its parameters.

    Raises:
        ImportError: The installed PEFT has its own method of that name.
    """
    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type(name.upper()))
    if registered is not None:
        if registered.__module__ == config_class.__module__:
            return
        raise ImportError(
            f"PEFT already has a method called {name!r} ({registered.__module__}). "
            "Install a peft release without it, or use that one instead of this package."
        )
    register_peft_method(
        name=name, config_cls=config_class, model_cls=tuner_class, prefix=tuner_class.prefix
    )


def keep_as_quantised(layer: Any) -> None:
    """Stop bitsandbytes from packing a 4-bit weight again at its first evaluation on some CPUs.

    On a CPU with AVX-512 for bfloat16 it would round the scales to bfloat16, in place, and from
    then on neither dequantise the weight nor pass a gradient on: what is trained after an
    evaluation would learn from wrong gradients, without a word.

    Args:
        layer: Any layer; only a 4-bit one of bitsandbytes is changed.

    Raises:
        ValueError: It has been evaluated, and packed, already.
    """
    if not hasattr(layer, "support_avx512bf16_for_cpu"):
        return
    layer.support_avx512bf16_for_cpu = False
    state = getattr(layer.weight, "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        raise ValueError(
            "bitsandbytes has packed the 4-bit weights of this model for inference on a CPU, after "
            "which they cannot be read. Load the model again and attach the adapter before it is "
            "evaluated."
        )


def cast_adapter_buffers(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast what adapters keep as named buffers, TinyLoRA's factors for one.

    DeepSpeed casts parameters alone, and a product of two types fails.

    Args:
        model: With PEFT adapters.
        dtype: A type of floating-point numbers.
    """
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for held in layer.children():
                if isinstance(held, BufferDict):
                    held.to(dtype)
