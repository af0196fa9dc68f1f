"""An adapter of any kind onto a base model, into a folder, and back onto the untouched base.

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

A folder without `adapter.json` is what PEFT's own `save_pretrained` wrote.

PiSSA and CorDA move a part of the base into the adapter: W becomes W - s B0 A0. On the untouched
base they are s (B A - B0 A0) = s [B, -B0] [A; A0], so nothing has to be recomputed on loading. On
the attached model the original base is gone up to rounding, so everything that would present the
remainder as the base (`disable_adapter`, `unload`, `delete_adapter`) is refused; a copy of the
originals would cost the memory of every targeted weight for something that load_adapter gives.
"""

import functools
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from curlora.adapter_files import (
    CONFIG,
    LOADING_ERRORS,
    TENSORS,
    AdapterError,
    check_finite,
    check_names,
    check_tensors,
    read_json,
)
from curlora.adapters import ADAPTERS, AdapterKind, Attached, adapter_kind
from curlora.export import ATTACHED, export_lora, initial_factors
from curlora.peft_bridge import (
    BaseTuner,
    BaseTunerLayer,
    include_all_linear_layers,
    preprocess_corda,
)
from curlora.permissions import open_to_others

MARKER = "adapter.json"


def attach(
    base: nn.Module,
    kind: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    text: Iterable[Tensor] | None = None,
) -> nn.Module:
    """Put an adapter on a base model and say what trains.

    The same base, settings, seed and text give the same adapter. The seed becomes torch's own.

    Args:
        base: A model of transformers, with its weights loaded. It is changed in place.
        kind: A key of `ADAPTERS`.
        settings: Some of the kind's settings.
        seed: For what starts at random.
        text: The knowledge to keep, for `corda`: batches of token ids (B, L) without padding.

    Returns:
        A `PeftModel`; for `full` and `head_only` the base itself, with all or none of its
        parameters to be trained.

    Raises:
        ValueError: A setting is wrong or does not fit the base, the base is quantised where its
            weights are needed as numbers, `text` is missing where it is needed or given where not,
            or no layer is targeted.
    """
    entry = adapter_kind(kind)
    values = entry.complete(settings)
    _check_text(kind, text)
    _check_base(entry, base)
    record = Attached(kind, values)
    torch.manual_seed(seed)
    config = entry.build(values)
    if config is None:
        base.requires_grad_(kind == "full")
        setattr(base, ATTACHED, record)
        return base
    layers = targeted_layers(base, config)
    _check_layers(entry, values, layers)
    if hasattr(config, "fan_in_fan_out") and any(isinstance(m, Conv1D) for m in layers.values()):
        cast(Any, config).fan_in_fan_out = True
    if kind == "corda":
        _measure_inputs(base, config, layers, cast(Iterable[Tensor], text))
    model = cast(PeftModel, get_peft_model(cast(PreTrainedModel, base), config))
    if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(f"No layer of the base was given an adapter of kind {kind!r}.")
    if entry.changes_base == "init":
        record.initial = initial_factors(model)
        _refuse_the_base_of(model, kind)
    setattr(model, ATTACHED, record)
    return model


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
        stored = "model" if record.kind == "full" else "nothing"
    else:
        stored = "peft" if record.initial is None else "lora"
    folder.mkdir(parents=True, exist_ok=True)
    if stored == "lora":
        export_lora(model, folder)
    elif stored != "nothing":
        cast(PreTrainedModel, model).save_pretrained(str(folder))
        open_to_others(folder)
    marker = {"kind": record.kind, "stored": stored, "settings": record.settings}
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
    return folder


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
    model, told = found
    lacking = sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"])))
    if lacking:
        raise AdapterError(
            f"The model in `{folder}` lacks {len(lacking)} weights, first `{lacking[0]}`, which "
            "would be random. Save or copy it again."
        )
    for name, parameter in model.named_parameters():
        check_finite(parameter.detach(), name, folder)
    return model.to(base.device).train(base.training)


def targeted_layers(base: nn.Module, config: PeftConfig) -> dict[str, nn.Module]:
    """Give the layers of a base that an adapter would adapt, by PEFT's own rule.

    Args:
        base: The model.
        config: The adapter's config; "all-linear" is replaced in it by the layers' names.

    Returns:
        Layers by name, in the model's order; empty where PEFT chooses by the model's family.

    Raises:
        ValueError: Nothing is targeted.
    """
    targets = getattr(config, "target_modules", None)
    if targets is None:
        return {}
    include_all_linear_layers(config, base)
    layers = {
        name: module
        for name, module in base.named_modules()
        if name and BaseTuner._check_target_module_exists(config, name)
    }
    if not layers:
        raise ValueError(
            f"`target_modules` {targets!r} name no layer of the base. Its linear layers end in: "
            f"{', '.join(_linear_names(base))}."
        )
    return layers


def _linear_names(base: nn.Module) -> list[str]:
    linear = (nn.Linear, Conv1D)
    return sorted({n.split(".")[-1] for n, m in base.named_modules() if isinstance(m, linear)})


def _check_text(kind: str, text: Iterable[Tensor] | None) -> None:
    if kind == "corda" and text is None:
        raise ValueError(
            "Adapter 'corda' needs `text`: batches of token ids (B, L) of the knowledge to keep. "
            "Name it, or choose 'mica', which needs none."
        )
    if kind != "corda" and text is not None:
        raise ValueError(f"Adapter {kind!r} reads no `text`. Only 'corda' does; drop it.")


def _check_base(entry: AdapterKind, base: nn.Module) -> None:
    if getattr(base, ATTACHED, None) is not None or isinstance(base, PeftModel):
        raise ValueError(
            f"The base already has an adapter, so {entry.name!r} would not start from it. Load the "
            "base again."
        )
    if entry.reads_weight and getattr(base, "is_quantized", False):
        fitting = ", ".join(name for name, kind in ADAPTERS.items() if not kind.reads_weight)
        raise ValueError(
            f"Adapter {entry.name!r} reads or writes the weights of the base as numbers, but the "
            f"base is quantised. Load it unquantised, or choose one of: {fitting}."
        )


def _check_layers(
    entry: AdapterKind, values: Mapping[str, Any], layers: Mapping[str, nn.Module]
) -> None:
    for name, layer in layers.items():
        if isinstance(layer, Conv1D) and not entry.conv1d:
            raise ValueError(
                f"Adapter {entry.name!r} cannot adapt `{name}`, a Conv1D as GPT-2 has. Choose "
                "another adapter or base."
            )
        shape = tuple(getattr(getattr(layer, "weight", None), "shape", ()))
        # A quantised weight is packed: its shape says nothing.
        if not isinstance(layer, nn.Linear | Conv1D) or len(shape) != 2:
            continue
        smaller = min(shape)
        rank = values.get("r", 1)
        if rank > smaller and layer.weight.is_floating_point():
            raise ValueError(
                f"`r` must be at most min(d_in, d_out) = {smaller} in `{name}`, got {rank}. Lower "
                "`r`, or drop the layer from `target_modules`."
            )
        kept = values.get("effective_rank", 0)
        if isinstance(kept, int) and kept >= smaller:
            raise ValueError(
                f"`effective_rank` must be below min(d_in, d_out) = {smaller} in `{name}`, got "
                f"{kept}: nothing would be left to train."
            )


def _measure_inputs(
    base: nn.Module, config: PeftConfig, layers: Mapping[str, nn.Module], text: Iterable[Tensor]
) -> None:
    """Let PEFT decompose every targeted weight against the inputs that the text gives it."""
    if not layers:
        raise ValueError("Adapter 'corda' needs `target_modules`, so that their inputs are known.")
    device = next(base.parameters()).device
    rows = [row[None].to(device) for batch in text for row in batch]  # PEFT's hook takes one row
    if not rows:
        raise ValueError("`text` is empty: 'corda' needs token ids of the knowledge to keep.")
    training = base.training

    def run() -> None:
        for row in rows:
            base(row)

    preprocess_corda(base, cast(Any, config), run_model=run)
    base.train(training)


def _refuse_the_base_of(model: PeftModel, kind: str) -> None:
    for name in ("disable_adapter_layers", "unload", "delete_adapter"):
        setattr(model.base_model, name, functools.partial(_refuse, kind, name))


def _refuse(kind: str, call: str, *_: Any, **__: Any) -> NoReturn:
    raise ValueError(
        f"`{call}` is refused: {kind!r} moved a part of the base into the adapter, so what is left "
        "is not the base. Save it with `curlora.save_adapter` and load it on the untouched base, "
        "where it can be disabled."
    )


def _record_of(model: nn.Module) -> Attached:
    """Give what can be told of a model that `attach` did not make."""
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
