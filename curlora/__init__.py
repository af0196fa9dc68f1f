"""CURLoRA (Fawi 2024) as a PEFT method. Importing this package registers it with PEFT.

from peft import get_peft_model
import curlora

model = get_peft_model(model, curlora.CurloraConfig(r=16, target_modules=["q_proj", "v_proj"]))

Import it also before loading a saved CURLoRA adapter; `export_lora` writes one that needs no
import.
"""

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from curlora.adapters.attach import attach
from curlora.adapters.curlora import CurloraModel, forward_form
from curlora.adapters.curlora_config import CurloraConfig
from curlora.adapters.curlora_layer import sampling_perplexity
from curlora.adapters.export import export_lora
from curlora.adapters.files import AdapterError
from curlora.adapters.saving import adapter_kind_of, load_adapter, save_adapter
from curlora.adapters.secura import SecuraModel, after_step, merged_tensors
from curlora.adapters.secura_config import SecuraConfig
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.table import ADAPTERS, adapter_config, adapter_kind
from curlora_kinds.plugins import load_plugin

__all__ = [
    "AdapterError",
    "ADAPTERS",
    "AdapterKind",
    "CurloraConfig",
    "CurloraModel",
    "SecuraConfig",
    "SecuraModel",
    "adapter_config",
    "adapter_kind",
    "adapter_kind_of",
    "adapter_state",
    "after_step",
    "attach",
    "export_lora",
    "forward_form",
    "load_adapter",
    "load_adapter_state",
    "load_plugin",
    "merged_tensors",
    "sampling_perplexity",
    "save_adapter",
    "trainable_parameters",
]


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give what an optimiser should see.

    Args:
        model: Any model.

    Returns:
        The parameters that require gradients, by name.
    """
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapter_state(model: nn.Module, adapter_name: str = "default") -> dict[str, Tensor]:
    """Give what `save_pretrained` would write of an adapter, as tensors on the CPU.

    Args:
        model: A PEFT model; any kind of adapter.
        adapter_name: Which adapter.

    Returns:
        Detached copies, by names that do not contain the adapter's.
    """
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def load_adapter_state(
    model: nn.Module, state: dict[str, Tensor], adapter_name: str = "default"
) -> None:
    """Put back what `adapter_state` gave, into a model whose adapter has the same settings.

    Args:
        model: A PEFT model.
        state: As `adapter_state` gave it.
        adapter_name: Which adapter.

    Raises:
        ValueError: `state` names what the model does not have, or was made on another base.
    """
    result = set_peft_model_state_dict(model, state, adapter_name=adapter_name)
    if result.unexpected_keys:
        raise ValueError(
            f"The state holds {result.unexpected_keys[:3]}, which adapter {adapter_name!r} does "
            "not have. Build the adapter with the settings it was saved with."
        )
