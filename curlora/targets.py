"""Which layers a family's adapters go on by default, and which engines a quantised base excludes.

Plain tables, and PEFT's own where they end.
"""

import difflib

from curlora.peft_bridge import LORA_TARGETS

QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")

# Fawi (2024, arXiv 2408.14572, Sec. 4) adapts the queries, keys and values of attention; these are
# the same layers under the names of each architecture, by `config.model_type`.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "gpt2": ("c_attn",),
    **dict.fromkeys(
        (
            "gemma",
            "gemma2",
            "gemma3",
            "gemma3_text",
            "llama",
            "mistral",
            "mixtral",
            "olmo2",
            "qwen2",
            "qwen3",
            "smollm3",
        ),
        QUERY_KEY_VALUE,
    ),
    "phi3": ("qkv_proj",),
}
"""Endings of module names by the `model_type` of a model's config."""


def known_targets() -> dict[str, tuple[str, ...] | str]:
    """The default layers of every family for which any are known.

    Returns:
        By `model_type`: endings of module names as in `DEFAULT_TARGETS`, and for families that are
        not in it what PEFT adapts there with LoRA, which may be a regular expression.
    """
    theirs: dict[str, tuple[str, ...] | str] = {
        family: names if isinstance(names, str) else tuple(names)
        for family, names in LORA_TARGETS.items()
    }
    return theirs | DEFAULT_TARGETS


def default_targets(model_type: str) -> list[str] | str:
    """The layers that are adapted where none are named: those of queries, keys and values.

    Args:
        model_type: `model_type` of the model's config, such as "llama" or "gpt2".

    Returns:
        Endings of module names, or a regular expression; for families that are not in
        `DEFAULT_TARGETS` those that PEFT adapts with LoRA.

    Raises:
        ValueError: If the family is known neither here nor to PEFT.
    """
    families = known_targets()
    if model_type not in families:
        known = ", ".join(sorted(families))
        close = difflib.get_close_matches(model_type, families, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`target_modules` is not set, and no default is known for models of the type "
            f"{model_type!r}.{hint} Name the layers, or use one of: {known}."
        )
    found = families[model_type]
    return found if isinstance(found, str) else list(found)


# --- quantised bases -----------------------------------------------------------------------------

QUANTISATION_BITS: dict[str, float] = {"nf4": 4 + 32 / 64, "int8": 8.0, "torchao_int8": 8.0}
"""Bits a weight takes in each form of quantisation; NF4 has a float32 scale for every 64 of them.

The scales of the int8 forms, one a row, are too few to be counted.
"""


def quantisation_refuses_engine(quantization: str | None, stage: int | None) -> str | None:
    """Why a quantised base cannot be trained by an engine.

    Args:
        quantization: A form of `QUANTISATION_BITS`, or None for a base of floating-point numbers.
        stage: ZeRO stage of the DeepSpeed engine, None for the plain engine of one process.

    Returns:
        A sentence, or None where nothing is in the way.
    """
    if quantization is None or stage is None:
        return None
    if quantization == "torchao_int8":
        return (
            "DeepSpeed moves and casts a model's tensors in place, which torchao's do not allow; "
            "use `model.quantization: int8` or `nf4`, or `resources.executor: local`"
        )
    if stage == 3:
        return (
            f"ZeRO stage 3 shards floating-point weights only, not `{quantization}`; use "
            "stage 0, 1 or 2"
        )
    return None
