"""The base model and its tokenizer: loading them, whole or partitioned by ZeRO stage 3."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.base.errors import ModelError
from orchestrator.base.number_formats import DTYPES, quantisation_options
from orchestrator.spec.sections import ModelSpec
from orchestrator.system.hub_environment import hub_hindered
from orchestrator.system.pulse import passed


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
    with loading_errors(spec):
        tokenizer: Any = AutoTokenizer.from_pretrained(place, **options)
        tokenizer("a")  # a damaged one may load, and fail at the first text
    return tokenizer


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within it, weights are loaded without the progress bars and warnings of other libraries."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for a property under its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_base(spec: ModelSpec, precision: str, device: torch.device | str = "cpu") -> nn.Module:
    """The frozen base model; a collective call within `partitioned`.

    Args:
        spec: The model; `quantization` is done while its weights are read.
        precision: "fp32" or "bf16"; of a quantised base, what its layers compute in.
        device: Where its weights go.

    Returns:
        A causal language model in evaluation mode, no parameter of which is trained.

    Raises:
        ModelError: If it cannot be loaded, has no weights, or cannot be quantised here.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from curlora.peft_bridge import keep_as_quantised

    if is_deepspeed_zero3_enabled() and spec.quantization is not None:
        raise ModelError(
            f"`model.quantization: {spec.quantization}` cannot be combined with ZeRO stage 3, "
            "which shards floating-point weights only. Use stage 0, 1 or 2."
        )
    place, options = _source(spec)
    options |= quantisation_options(spec, precision, device)
    # On CPU in bf16 the fused attention's backward is several times slower than the plain one.
    attention = "eager" if torch.device(device).type == "cpu" else "sdpa"
    with loading_errors(spec):
        found: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=DTYPES[precision], attn_implementation=attention,
            output_loading_info=True, **options,
        )  # fmt: skip
    model, info = found
    if spec.quantization is None and spec.gguf is None and not is_deepspeed_zero3_enabled():
        _refuse_lacking(spec, info)
    model.requires_grad_(False)
    model.config.use_cache = False
    if spec.quantization is None:
        model.to(device)
    for module in model.modules():
        keep_as_quantised(module)
    getattr(model, model.base_model_prefix).register_forward_hook(passed)
    return model.eval()


def _refuse_lacking(spec: ModelSpec, info: Mapping[str, Any]) -> None:
    """Refuse a base that transformers would complete with random weights and a warning."""
    lacking = sorted(map(str, info.get("missing_keys") or ()))
    if lacking:
        raise ModelError(
            f"The model {spec.name!r} lacks {len(lacking)} weights, first {lacking[0]!r}; they "
            "would be random. Its files are not whole, or are not those of a causal language "
            "model: fetch or save it again."
        )


@contextmanager
def partitioned(zero3: Mapping[str, Any] | None) -> Iterator[None]:
    """Within it a base is loaded in parts and read by adapters one layer at a time.

    Each worker keeps its own part of every weight from the first on; the first worker reads the
    files. An adapter that reads weights, such as CURLoRA, must be attached within it too.

    Args:
        zero3: A DeepSpeed configuration of ZeRO stage 3; None: nothing is sharded.
    """
    if zero3 is None:
        yield
        return
    from transformers.integrations.deepspeed import (
        HfDeepSpeedConfig,
        unset_hf_deepspeed_config,
    )

    # transformers finds the configuration through a weak reference, so it must stay alive.
    config = HfDeepSpeedConfig(dict(zero3))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


def _source(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    if spec.gguf is not None:
        path = Path(spec.gguf)
        return str(path.parent), {"gguf_file": path.name}
    return str(spec.name), {"revision": spec.revision} if spec.revision else {}


@contextmanager
def loading_errors(spec: ModelSpec) -> Iterator[None]:
    """Within it, what is raised becomes a `ModelError` with a cure, except lack of memory."""
    name = spec.gguf or spec.name
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Whatever is wrong with a file: transformers and tokenizers raise all kinds of errors, the
        # bare `Exception` among them.
        text = (" ".join(str(error).split())[:300] or type(error).__name__).rstrip(".")
        of_hub = spec.gguf is None and not Path(str(spec.name)).exists()
        cause = f"{hub_hindered()} " if of_hub and hub_hindered() else ""
        raise ModelError(
            f"The model {name!r} cannot be loaded: {text}. {cause}`model.name` is a Hugging "
            "Face name or a folder with config.json, safetensors weights and a tokenizer; `make "
            "demo` fetches the demo's."
        ) from error


def token_batches(rows: Iterable[Sequence[int]]) -> list[torch.Tensor]:
    """Texts as batches of one.

    Args:
        rows: The token ids of each.

    Returns:
        Token ids (1, L) of each.
    """
    return [torch.tensor(row, dtype=torch.long)[None] for row in rows]
