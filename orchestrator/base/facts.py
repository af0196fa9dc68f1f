"""Sizes of a base model, from its config and the header of its weights; no weights are loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.base.config import model_type
from orchestrator.base.errors import BaseFilesError
from orchestrator.base.files import folder_shapes, local_folder, read_config
from orchestrator.base.gguf_file import gguf_family, gguf_shapes
from orchestrator.spec.sections import ModelSpec
from orchestrator.system.wording import cut

OPTIMISER_BYTES = 16
"""Per trained parameter: parameter, gradient, fp32 master and two moments, rounded up."""
RECORD_BYTES = 2 * 2**20
"""What a trial leaves beside its adapter: journal, log, MLflow's records."""


@dataclass(frozen=True)
class BaseFacts:
    """Sizes of the base model, read without its weights."""

    parameters: int
    body: int
    """Parameters that every token is multiplied with: embeddings and output layer excluded."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    shapes: dict[str, tuple[int, int]] = field(repr=False, default_factory=dict)
    """(d_out, d_in) of each linear layer of the body."""
    model_type: str = ""
    """The family, by the config's `model_type`."""

    def weight_bytes(self, width: int, quantization: str | None) -> float:
        """The memory of the frozen weights.

        Args:
            width: Bytes of a number that is not quantised.
            quantization: A form of `curlora.targets.QUANTISATION_BITS`, or None. Only the linear
                layers of the body are quantised.

        Returns:
            Bytes.
        """
        if quantization is None:
            return float(self.parameters * width)
        from curlora.targets import QUANTISATION_BITS  # which brings torch

        linear = sum(math.prod(shape) for shape in self.shapes.values())
        bits = QUANTISATION_BITS[quantization]
        return (self.parameters - linear) * width + linear * bits / 8


def base_facts(model: ModelSpec) -> BaseFacts | None:
    """The sizes of a base model, from its config and the header of its weights.

    Args:
        model: The model.

    Returns:
        The sizes, None when they cannot be read here (a hub model that was not downloaded yet).
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return _gguf_facts(path) if path.is_file() else None
    folder = local_folder(model)
    return _folder_facts(folder) if folder is not None else None


def vocabulary(model: ModelSpec) -> int | None:
    """The rows of a base's embedding, None when they cannot be read here."""
    try:
        facts = base_facts(model)
    except BaseFilesError:
        return None  # said by whoever needs the files themselves
    return facts.vocabulary if facts is not None else None


def _folder_facts(folder: Path) -> BaseFacts | None:
    shapes = folder_shapes(folder)
    if not shapes or not (folder / "config.json").is_file():
        return None
    return _from_shapes(read_config(folder), shapes)


def linear_shapes(model: ModelSpec) -> dict[str, tuple[int, int]]:
    """The (d_out, d_in) of each linear layer of the body, by the name of its module.

    Args:
        model: The model.

    Returns:
        The shapes; empty when the header of the weights cannot be read here.
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return _linear(gguf_shapes(path)[0], None) if path.is_file() else {}
    folder = local_folder(model)
    return _linear(folder_shapes(folder), model_type(model)) if folder is not None else {}


def _from_shapes(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> BaseFacts | None:
    text = config.get("text_config") or config
    try:
        sizes = {
            ours: _size(text, next(name for name in theirs if name in text))
            for ours, theirs in (
                ("hidden", ("hidden_size", "n_embd")),
                ("layers", ("num_hidden_layers", "n_layer")),
                ("heads", ("num_attention_heads", "n_head")),
                ("vocabulary", ("vocab_size",)),
            )
        }
    except StopIteration:  # another family's words for the same sizes
        return None
    outer = sum(math.prod(shape) for name, shape in shapes.items() if _ENDS.search(name))
    whole = sum(math.prod(shape) for shape in shapes.values())
    return BaseFacts(
        parameters=whole,
        body=whole - outer,
        intermediate=next(
            (_size(text, name) for name in ("intermediate_size", "n_inner") if text.get(name)),
            4 * sizes["hidden"],
        ),
        shapes=_linear(shapes, config.get("model_type")),
        model_type=str(text.get("model_type") or config.get("model_type") or ""),
        **sizes,
    )


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config[name]
    if isinstance(value, list) and value and all(type(number) is int for number in value):
        value = max(value)  # of some families each layer has its own
    if type(value) is not int or not 0 < value < 1 << 40:
        raise BaseFilesError(
            f"config.json of the base: `{name}` should be a whole number above 0, got "
            f"{cut(repr(value))}. Save the model again."
        )
    return value


_ENDS = re.compile(r"(^|\.)(embed_tokens|wte|wpe|lm_head|embed_out|word_embeddings)\.weight$")

# GPT-2 keeps its linear layers as transformers' Conv1D, (d_in, d_out).
_CONV1D = re.compile(r"\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")


def _linear(
    shapes: Mapping[str, tuple[int, ...]], family: str | None
) -> dict[str, tuple[int, int]]:
    return {
        name.removesuffix(".weight"): (
            (shape[1], shape[0])
            if family == "gpt2" and _CONV1D.search(name)
            else (shape[0], shape[1])
        )
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not _ENDS.search(name)
    }


def _gguf_facts(path: Path) -> BaseFacts | None:
    shapes, counts = gguf_shapes(path)
    embedding = shapes.get("embed_tokens.weight")
    if embedding is None:
        return None
    config = {
        "hidden_size": embedding[1],
        "vocab_size": embedding[0],
        "num_hidden_layers": counts.get("block_count", 1),
        "num_attention_heads": counts.get("head_count", 1),
        "intermediate_size": counts.get("feed_forward_length"),
        "model_type": gguf_family(path),
    }
    return _from_shapes(config, shapes)
