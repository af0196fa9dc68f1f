"""The PEFT config of each kind of adapter, from complete settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curlora.adapters.sizes import tinylora_u

if TYPE_CHECKING:
    from peft import PeftConfig


def curlora_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of CURLoRA."""
    from curlora.adapters.curlora_config import CurloraConfig

    return CurloraConfig(**values)


def secura_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of SECURA."""
    from curlora.adapters.secura_config import SecuraConfig

    return SecuraConfig(**values)


def lora_config(values: dict[str, Any], **options: Any) -> PeftConfig:
    """Build the config of LoRA, or of a variant that PEFT's options name."""
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


def rslora_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of rsLoRA."""
    return lora_config(values, use_rslora=True)


def dora_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of DoRA."""
    return lora_config(values, use_dora=True)


def pissa_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of PiSSA; `alpha` must be positive."""
    _positive_alpha("pissa", values)
    return lora_config(values, init_lora_weights="pissa")


def mica_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of MiCA."""
    return lora_config(values, init_lora_weights="mica")


def corda_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of CorDA, which keeps knowledge; `alpha` must be positive."""
    from curlora.peft_bridge import CordaConfig

    _positive_alpha("corda", values)
    knowledge_preserving = CordaConfig(corda_method="kpm")
    return lora_config(values, init_lora_weights="corda", corda_config=knowledge_preserving)


def miss_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of MiSS."""
    from peft import MissConfig

    return MissConfig(
        r=values["r"], miss_dropout=values["dropout"], target_modules=values["target_modules"]
    )


def osf_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of OSF."""
    from peft import OSFConfig

    return OSFConfig(
        effective_rank=values["effective_rank"], target_modules=values["target_modules"]
    )


def tinylora_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of TinyLoRA."""
    from peft import TinyLoraConfig

    return TinyLoraConfig(
        r=values["r"],
        u=tinylora_u(values),
        tinylora_dropout=values["dropout"],
        target_modules=values["target_modules"],
    )


def randlora_config(values: dict[str, Any]) -> PeftConfig:
    """Build the config of RandLoRA."""
    from peft import RandLoraConfig

    return RandLoraConfig(
        r=values["r"],
        randlora_alpha=values["alpha"],
        randlora_dropout=values["dropout"],
        target_modules=values["target_modules"],
    )
