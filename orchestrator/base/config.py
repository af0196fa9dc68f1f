"""What the config of a base model says: its family, its dropout and its context length."""

from __future__ import annotations

from pathlib import Path

from orchestrator.base.files import local_folder, read_config
from orchestrator.base.gguf_file import gguf_family, gguf_shapes
from orchestrator.spec.sections import ModelSpec


def model_type(model: ModelSpec) -> str | None:
    """The family of a base model, by the `model_type` of its config.

    Args:
        model: The model.

    Returns:
        Such as "llama"; None when it is not known on this machine.
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return gguf_family(path) if path.is_file() else None
    folder = local_folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return None
    family = read_config(folder).get("model_type")
    return family if isinstance(family, str) else None


def base_dropout(model: ModelSpec) -> dict[str, float]:
    """What of a base is dropped out while it learns, by its config.

    Args:
        model: The model.

    Returns:
        Such as {"resid_pdrop": 0.1}: the rates above 0 of the config, those of heads that a
        language model does not have left out; empty where the config is not on this machine.
    """
    if model.gguf is not None:
        return {}
    folder = local_folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return {}
    config = read_config(folder)
    config |= config.get("text_config") or {}
    return {
        name: float(value)
        for name, value in config.items()
        if "drop" in name
        and not name.startswith(("summary", "classifier"))
        and isinstance(value, int | float)
        and value > 0
    }


def context_length(model: ModelSpec) -> int | None:
    """The most tokens that a base model can read, None when it is unknown or unlimited.

    Args:
        model: The model.

    Returns:
        Number of positions.
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return gguf_shapes(path)[1].get("context_length") if path.is_file() else None
    folder = local_folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = read_config(folder)
    text = config.get("text_config") or config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(text.get(name), int) and text[name] > 0:
            return text[name]
    return None
