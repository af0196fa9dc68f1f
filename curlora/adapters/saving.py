"""Adapters in folders: written so that they load on the untouched base, and loaded.

    model = attach(base, "pissa", {"r": 16, "target_modules": ["q_proj"]}, seed=0)
    ...
    save_adapter(model, "adapter")
    model = load_adapter(untouched_base, "adapter")

`adapter.json` in the folder decides what is loaded: it names the kind, its settings, and how the
adapter is stored.

======== ==========================================================================================
stored   the folder holds besides
======== ==========================================================================================
peft     `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them
lora     the same, as a plain LoRA of rank 2 r (PiSSA, CorDA)
model    the whole model, as transformers writes it (`full`)
nothing  nothing (`head_only`)
======== ==========================================================================================

It also names the plugin that declares the kind, if one does. That loads nothing: see
`curlora_kinds.plugins`.

A folder without `adapter.json` is what PEFT's own `save_pretrained` wrote.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from curlora.adapters.attached import ATTACHED, Attached
from curlora.adapters.export import export_lora
from curlora.adapters.files import (
    CONFIG,
    LOADING_ERRORS,
    TENSORS,
    AdapterError,
    check_finite,
    check_names,
    check_tensors,
    read_json,
    sort_names,
)
from curlora.permissions import open_to_others
from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.plugins import how_to_load
from curlora_kinds.settings import maker

MARKER = "adapter.json"


def adapter_kind_of(folder: str | Path) -> str:
    """Say which kind of adapter a folder holds, from `adapter.json` if it is there.

    Args:
        folder: What `save_adapter` or PEFT's `save_pretrained` wrote.

    Returns:
        A key of `ADAPTERS`, or for a foreign adapter PEFT's own name of its method.

    Raises:
        FileNotFoundError: The folder holds no adapter.
    """
    return _read_marker(Path(folder))["kind"]


def save_adapter(model: nn.Module, folder: str | Path) -> Path:
    """Write an adapter so that `load_adapter` gives it back on the untouched base.

    Args:
        model: What `attach` or `load_adapter` returned, unmerged; or any `PeftModel` whose adapter
            did not change the base when it was attached.
        folder: Where to write; made if missing.

    Returns:
        The folder.

    Raises:
        TypeError: Nothing is known of how the model was adapted.
        ValueError: Its base was changed by something other than `attach`.
    """
    folder = Path(folder)
    record: Attached | None = getattr(model, ATTACHED, None)
    if record is None:
        record = _record_of(model)
    if not isinstance(model, PeftModel):
        stored = "model" if trains_base(record.kind) else "nothing"
    else:
        stored = "peft" if record.initial is None else "lora"
    folder.mkdir(parents=True, exist_ok=True)
    if stored == "lora":
        export_lora(model, folder)
    elif stored != "nothing":
        cast(PreTrainedModel, model).save_pretrained(str(folder))
        open_to_others(folder)
        if stored == "peft":
            sort_names(folder)
    write_marker(folder, record.kind, stored, record.settings)
    return folder


def write_marker(folder: Path, kind: str, stored: str, settings: Mapping[str, Any]) -> None:
    """Write `adapter.json`.

    Args:
        folder: The adapter's folder.
        kind: The adapter's kind.
        stored: How it is stored: see the module.
        settings: All settings of the adapter.
    """
    plugin = ADAPTERS.plugin_of(kind)
    marker = {"kind": kind, "stored": stored, "settings": dict(settings)}
    if plugin is not None:
        marker["plugin"] = plugin
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n")


def trains_base(kind: str) -> bool:
    """Say whether a kind trains the base's own parameters, and is saved as a whole model.

    Args:
        kind: A key of `ADAPTERS`, or a method of PEFT's that has no kind here.

    Returns:
        True for `full`.
    """
    return kind in ADAPTERS and ADAPTERS[kind].trains_base


def load_adapter(base: nn.Module, folder: str | Path) -> nn.Module:
    """Put a saved adapter on the base it was made for, for inference.

    Args:
        base: The untouched base model. Changed in place, except by `full`.
        folder: What `save_adapter` or PEFT's `save_pretrained` wrote.

    Returns:
        A `PeftModel`, the base itself for `head_only`, the saved model for `full`; nothing of it
        is to be trained.

    Raises:
        FileNotFoundError: The folder holds no adapter.
        AdapterError: Its files are damaged, lack a tensor, hold NaN or infinity, do not fit the
            base, or were not written by this library.
    """
    folder = Path(folder)
    marker = _read_marker(folder)
    _check_plugin(marker, folder)
    if marker["stored"] in {"peft", "lora"}:
        model = _load_peft(base, folder)
    elif marker["stored"] == "nothing":
        model = base
    elif marker["stored"] == "model":
        model = _load_whole(cast(PreTrainedModel, base), folder)
    else:
        raise AdapterError(
            f"`{folder / MARKER}` says that the adapter is stored as {marker['stored']!r}, which "
            "is none of peft, lora, model, nothing. Was it written by a newer version?"
        )
    model.requires_grad_(False)
    setattr(model, ATTACHED, Attached(marker["kind"], marker["settings"]))
    return model


def _check_plugin(marker: Mapping[str, Any], folder: Path) -> None:
    """Refuse an adapter of a plugin that is not loaded: what is named here loads no code."""
    kind, plugin = marker["kind"], marker.get("plugin")
    if kind in ADAPTERS:
        made_by = ADAPTERS[kind].made_by
        if ADAPTERS.plugin_of(kind) is not None and made_by is not None:
            maker(made_by)  # registers what the plugin adds to PEFT
    elif isinstance(plugin, str):
        raise AdapterError(
            f"The adapter in `{folder}` is of the kind {kind!r}. {how_to_load([plugin])}"
        )


def _load_peft(base: nn.Module, folder: Path) -> nn.Module:
    """Put what PEFT wrote on a base, and see that nothing of it is missing or left over."""
    config, file = read_json(folder / CONFIG), folder / TENSORS
    shapes = check_tensors(file)
    longest = max((size for shape in shapes.values() for size in shape), default=0)
    rank = config.get("r")
    if isinstance(rank, int) and rank > longest > 0:
        raise AdapterError(
            f"`{folder / CONFIG}` says r = {rank}, and no tensor of {TENSORS} has more than "
            f"{longest} rows or columns. One of them belongs to another adapter."
        )
    try:
        with warnings.catch_warnings():
            # What is missing is an error here, see below.
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            model = PeftModel.from_pretrained(cast(PreTrainedModel, base), str(folder))
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:600] or type(error).__name__
        raise AdapterError(
            f"The adapter in `{folder}` cannot be put on this base: {reason}"
        ) from error
    check_names(file, shapes, get_peft_model_state_dict(model, save_embedding_layers=False))
    return model


def _load_whole(base: PreTrainedModel, folder: Path) -> nn.Module:
    """Load a model that was trained whole, in the place of its base."""
    try:
        found: Any = type(base).from_pretrained(
            str(folder), dtype=base.dtype, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:600] or type(error).__name__
        raise AdapterError(f"The model in `{folder}` cannot be loaded: {reason}") from error
    model, info = found
    lacking = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    if lacking:
        raise AdapterError(
            f"The model in `{folder}` lacks {len(lacking)} weights, first `{lacking[0]}`, which "
            "would be random. Save or copy it again."
        )
    for name, parameter in model.named_parameters():
        check_finite(parameter.detach(), name, folder)
    return model.to(base.device).train(base.training)


def _record_of(model: nn.Module) -> Attached:
    """Give what is known of a model that `attach` did not make."""
    if not isinstance(model, PeftModel):
        raise TypeError(
            f"Nothing says what was trained of this {type(model).__name__}. Adapt it with "
            "`curlora.attach`."
        )
    config = model.peft_config[model.active_adapters[0]]
    start = getattr(config, "init_lora_weights", True)
    if isinstance(start, str) and start not in _STARTS_THAT_KEEP_THE_BASE:
        raise ValueError(
            f"The adapter started with `init_lora_weights={start!r}`, which changes the base, and "
            "how it started was not kept. Adapt the model with `curlora.attach`."
        )
    return Attached(_kind_of_config(config.to_dict()), {})


_STARTS_THAT_KEEP_THE_BASE = frozenset({"gaussian", "eva", "orthogonal", "mica"})


def _kind_of_config(config: Mapping[str, Any]) -> str:
    method = str(getattr(config["peft_type"], "value", config["peft_type"])).lower()
    if method != "lora":
        return method
    if config.get("use_dora"):
        return "dora"
    if config.get("init_lora_weights") == "mica":
        return "mica"
    return "rslora" if config.get("use_rslora") else "lora"


def _read_marker(folder: Path) -> dict[str, Any]:
    marker, config = folder / MARKER, folder / CONFIG
    if marker.exists():
        found = read_json(marker)
        fields = {"kind": str, "stored": str, "settings": dict}
        wrong = [name for name, kind in fields.items() if not isinstance(found.get(name), kind)]
        if wrong:
            raise AdapterError(
                f"`{marker}`: `{wrong[0]}` should be a {fields[wrong[0]].__name__}, got "
                f"{found.get(wrong[0])!r}. Save or copy the adapter again."
            )
        return found
    if config.exists():
        found = read_json(config)
        if not isinstance(found.get("peft_type"), str):
            raise AdapterError(
                f"`{config}`: `peft_type` should name a method of PEFT, got "
                f"{found.get('peft_type')!r}. Save or copy the adapter again."
            )
        return {"kind": _kind_of_config(found), "stored": "peft", "settings": {}}
    raise FileNotFoundError(f"No adapter in `{folder}`: neither {MARKER} nor {CONFIG} is there.")
