"""The base model and its tokenizer: loading, and telling one base from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.experiment import ModelSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class ModelError(ValueError):
    """A base model that cannot be used; the message says why and what to do."""


def load_tokenizer(spec: ModelSpec) -> Any:
    """The tokenizer of a base model.

    Args:
        spec: The model.

    Returns:
        A Hugging Face tokenizer.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    place, options = _source(spec)
    with _loading(spec):
        return AutoTokenizer.from_pretrained(place, **options)


def load_base(spec: ModelSpec, precision: str, device: torch.device | str = "cpu") -> nn.Module:
    """The frozen base model.

    Args:
        spec: The model.
        precision: "fp32" or "bf16".
        device: Where its weights go.

    Returns:
        A causal language model in evaluation mode, no parameter of which is trained.

    Raises:
        ModelError: If it cannot be loaded or has no weights.
    """
    from transformers import AutoModelForCausalLM

    place, options = _source(spec)
    # On CPU in bf16 the fused attention's backward is several times slower than the plain one.
    attention = "eager" if torch.device(device).type == "cpu" else "sdpa"
    with _loading(spec):
        model: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=DTYPES[precision], attn_implementation=attention, **options
        )
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.to(device).eval()


def _source(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    if spec.gguf is not None:
        path = Path(spec.gguf)
        return str(path.parent), {"gguf_file": path.name}
    return str(spec.name), {"revision": spec.revision} if spec.revision else {}


@contextmanager
def _loading(spec: ModelSpec) -> Iterator[None]:
    name = spec.gguf or spec.name
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The model {name!r} cannot be loaded: {text}. `model.name` is a Hugging Face name or "
            "a folder with config.json, safetensors weights and a tokenizer; `make demo` fetches "
            "the demo's."
        ) from None


def base_sha256(spec: ModelSpec) -> str:
    """A hash of the base's weights: of the files of a folder, or the commit of a hub model.

    Args:
        spec: The model.

    Returns:
        A hexadecimal sha256 (folder, GGUF), or the hub's commit hash.

    Raises:
        ModelError: If a folder holds no weights.
    """
    place = Path(spec.gguf or str(spec.name))
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
        if not files:
            raise ModelError(
                f"The model folder {place} has no weights (*.safetensors). "
                "Save the model there with save_pretrained, or fix `model.name`."
            )
    else:
        from transformers import AutoConfig

        with _loading(spec):
            config: Any = AutoConfig.from_pretrained(str(spec.name), revision=spec.revision)
        return str(getattr(config, "_commit_hash", None) or "unknown")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def attach_adapter(base: nn.Module, settings: Mapping[str, Any], seed: int) -> Any:
    """A fresh adapter on a base model.

    Args:
        base: The base model.
        settings: `method.adapter` of an experiment.
        seed: Seed of a random initialisation (LoRA's A); CURLoRA's selection has its own.

    Returns:
        A `peft.PeftModel` whose adapter parameters alone are trained.
    """
    from peft import get_peft_model

    import curlora

    options = {key: value for key, value in settings.items() if key != "kind"}
    if isinstance(options["target_modules"], tuple):
        options["target_modules"] = list(options["target_modules"])
    torch.manual_seed(seed)
    return get_peft_model(base, curlora.adapter_config(settings["kind"], options))  # type: ignore[arg-type]
