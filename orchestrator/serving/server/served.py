"""The base and the adapters that are served: loaded once, in one pack."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from curlora import AdapterError
from curlora.adapters.saving import adapter_kind_of
from curlora.packing.pack import BARE, PackedModel
from orchestrator.base.errors import ModelError
from orchestrator.base.identity import found_base
from orchestrator.base.loading import load_base, load_tokenizer, quiet_loading
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.linear_heads import HEADS_FILE, LinearHeads
from orchestrator.engines.scored_model import ScoredModel, check_logits, hidden_size
from orchestrator.records.model_folder import (
    ADAPTER_FOLDER,
    MODEL_FILE,
    base_of,
    read_model_document,
    tasks_of,
)
from orchestrator.serving.asking import Asking
from orchestrator.serving.find import ModelUseError, model_folder
from orchestrator.serving.predictor import check_heads
from orchestrator.serving.server.running_batch import why_not_written
from orchestrator.spec.plugins import load_installed_plugins
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.task_kinds import TaskSpec

_TENSOR = re.compile(r"base_model\.model\.(.+?)\.(lora_\w+|cur_\w+)(\.\w+)*")
"""Of a tensor in an adapter's file, the layer that it belongs to."""
_SAME = ("name", "revision", "gguf")
"""What says which base a model belongs to, where its hash is not known."""


@dataclass(frozen=True)
class ServedModel:
    """The base under its own name, or one adapter."""

    name: str
    slot: int
    asking: Asking
    facts: Mapping[str, Any]
    """What clients may know of it: sweep, trial, kind."""

    def rows(self, rows: Sequence[Scored]) -> list[Scored]:
        """The rows of this model's questions, read by its own linear heads."""
        return [
            row if row.head is None else replace(row, head=_head(self.name, row.head))
            for row in rows
        ]


@dataclass(frozen=True)
class ServedBase:
    """One base, and the models on it."""

    scored: ScoredModel
    pack: PackedModel
    tokenizer: Any
    models: dict[str, ServedModel]
    """By name, the base first."""
    context: int | None
    """Tokens that the base can read; None: no limit is known."""
    unwritten: str | None
    """Why texts cannot be written with it; None if they can."""
    ends: frozenset[int]
    """Tokens that end a text."""
    task_ends: frozenset[int]
    """Those that end the text of a task."""
    special: frozenset[int]
    """Tokens that are no part of a text."""

    @property
    def name(self) -> str:
        """The base's own name."""
        return next(iter(self.models))


@dataclass(frozen=True)
class _Found:
    """A model folder that is to be served."""

    name: str
    reference: str
    folder: Path
    document: Mapping[str, Any]
    tasks: dict[str, TaskSpec]
    kind: str

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER_FOLDER


def load_served(
    references: Sequence[str],
    storage: Path,
    tracking_uri: str | None,
    *,
    base: Path | None = None,
    device: str = "cpu",
    note: Callable[[str], None],
) -> ServedBase:
    """Load a base and put adapters on it.

    Args:
        references: `NAME@champion`, `NAME/VERSION`, `SWEEP/TRIAL` or paths of model folders.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; None: as the sweeps say.
        base: Where the base is now, if it was moved since.
        device: Where it computes.
        note: Told what is not verified.

    Returns:
        The base and its models.

    Raises:
        ModelUseError: A name leads nowhere or is given twice, two models have different bases, or
            one cannot share passes with others.
        ModelError: The base or an adapter cannot be loaded.
    """
    load_installed_plugins()
    with ExitStack() as stack:
        found = [
            _found(name, stack.enter_context(model_folder(name, storage, tracking_uri, note=note)))
            for name in references
        ]
        names = [one.name for one in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ModelUseError(f"{twice[0]!r} is given twice. A model is asked by its name.")
        first = found[0]
        for one in found[1:]:
            _check_same_base(first, one)
        spec = found_base(
            base_of(first.document, first.folder), first.document["base"],
            f"the model {first.name}", base,
        )  # fmt: skip
        with quiet_loading():
            model: Any = load_base(spec, first.document["precision"], device)
        return _packed(spec, model, found)


def _found(reference: str, folder: Path) -> _Found:
    is_path = (Path(reference) / MODEL_FILE).is_file()
    name = Path(reference).resolve().name if is_path else reference
    document = read_model_document(folder)
    kind = adapter_kind_of(folder / ADAPTER_FOLDER)
    return _Found(name, reference, folder, document, tasks_of(document, folder), kind)


def _check_same_base(first: _Found, other: _Found) -> None:
    one, two = first.document["base"], other.document["base"]
    fields = ("sha256", "setup_sha256", "quantization")
    if one.get("sha256") is None or two.get("sha256") is None:
        fields = (*fields, *_SAME)
    odd = [name for name in fields if one.get(name) != two.get(name)]
    if odd:
        raise ModelUseError(
            f"{first.name} and {other.name} do not have the same base: their `{odd[0]}` is "
            f"{str(one.get(odd[0]))[:40]} and {str(two.get(odd[0]))[:40]}. One server has one "
            "base: start another for the other model."
        )
    precisions = first.document["precision"], other.document["precision"]
    if len(set(precisions)) > 1:
        raise ModelUseError(
            f"{first.name} was trained in {precisions[0]} and {other.name} in {precisions[1]}, and "
            "the base is loaded once. Start a server for each."
        )


def _packed(spec: ModelSpec, base: Any, found: Sequence[_Found]) -> ServedBase:
    """The base with all adapters, those of one kind side by side."""
    packed = [one for one in found if one.kind != "head_only"]
    for one in packed:
        if not _layers_of(one.adapter):
            raise _alone(one, f"its kind is {one.kind}.")
    order = sorted(packed, key=lambda one: one.kind)
    layers = sorted({layer for one in packed for layer in _layers_of(one.adapter)})
    try:
        pack = PackedModel(base, layers or None, capacity=max(1, len(packed)))
    except (TypeError, ValueError) as error:
        raise ModelUseError(
            f"Adapters on this base cannot share passes: {error} `orchestrate export ... --as "
            "merged` writes a whole model that other servers take."
        ) from error
    for slot, one in enumerate(order):
        try:
            with quiet_loading():
                pack.put(slot, one.adapter)
        except AdapterError as error:
            raise ModelError(str(error)) from error
        except ValueError as error:
            raise _alone(one, str(error)) from error
    heads = _all_heads(found, hidden_size(base))
    scored = ScoredModel(base, heads and heads.to(next(base.parameters()).device)).eval()
    config = base.config.get_text_config()
    check_logits(scored, int(config.vocab_size))
    slots = {one.name: slot for slot, one in enumerate(order)}
    tokenizer = load_tokenizer(spec)
    ends, task_ends = _ends(base, tokenizer)
    models = _models(spec, base, tokenizer, found, slots)
    return ServedBase(
        scored=scored,
        pack=pack,
        tokenizer=tokenizer,
        models=models,
        context=_context(config),
        unwritten=why_not_written(scored, pack),
        ends=ends,
        task_ends=task_ends,
        special=frozenset(tokenizer.all_special_ids),
    )


def _models(
    spec: ModelSpec, base: Any, tokenizer: Any, found: Sequence[_Found], slots: Mapping[str, int]
) -> dict[str, ServedModel]:
    rows: int | None = getattr(base.get_input_embeddings(), "num_embeddings", None)

    def asking(tasks: Mapping[str, TaskSpec], length: int, *, heads: bool) -> Asking:
        return Asking(dict(tasks), tokenizer, length, rows, has_heads=heads)

    place = spec.gguf or str(spec.name)
    name = Path(place).name if Path(place).exists() else place
    everyones = {n: t for one in reversed(found) for n, t in one.tasks.items()}
    length = max(int(one.document["max_length"]) for one in found)
    models = {name: ServedModel(name, BARE, asking(everyones, length, heads=False), {})}
    if name in {one.name for one in found}:
        raise ModelUseError(f"The base is called {name!r}, too. Rename the model folder.")
    for one in found:
        facts = {key: one.document.get(key) for key in ("sweep", "trial")} | {"kind": one.kind}
        has_heads = (one.adapter / HEADS_FILE).is_file()
        models[one.name] = ServedModel(
            one.name, slots.get(one.name, BARE),
            asking(one.tasks, int(one.document["max_length"]), heads=has_heads), facts,
        )  # fmt: skip
    return models


def _alone(one: _Found, reason: str) -> ModelUseError:
    return ModelUseError(
        f"{one.reference} cannot be served: its layers cannot share a pass with those of other "
        f"adapters ({reason.rstrip('.')}). Write it as a whole model, `orchestrate export "
        f"{one.reference} --as merged --to DIR`, which any server takes; `orchestrate predict` "
        "answers with it as it is."
    )


def _layers_of(adapter: Path) -> set[str]:
    """The layers of a saved adapter, by its tensors' names; none of a kind that has others."""
    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        return set()
    with safe_open(str(file), framework="pt") as tensors:
        names = [_TENSOR.fullmatch(name) for name in tensors.keys()]  # noqa: SIM118
    return {match[1] for match in names if match} if all(names) else set()


def _all_heads(found: Sequence[_Found], hidden: int) -> LinearHeads | None:
    """The linear heads of all models under names of their own."""
    layers: dict[str, torch.nn.Linear] = {}
    for one in found:
        file = one.adapter / HEADS_FILE
        if not file.is_file():
            continue
        try:
            heads = LinearHeads.from_file(file)
        except (AdapterError, FileNotFoundError) as error:
            raise ModelError(str(error)) from error
        check_heads(heads, one.tasks, hidden, file)
        for task, layer in zip(heads.tasks, heads.layers, strict=True):
            assert isinstance(layer, torch.nn.Linear)
            layers[_head(one.name, task)] = layer
    if not layers:
        return None
    every = LinearHeads({name: layer.out_features for name, layer in layers.items()}, hidden)
    every.layers = torch.nn.ModuleList(layers.values())
    return every.requires_grad_(False)


def _head(model: str, task: str) -> str:
    return f"{model} {task}"


def _ends(base: Any, tokenizer: Any) -> tuple[frozenset[int], frozenset[int]]:
    """Tokens that end any text, and a task's text as `write_batch` ends it."""
    named = getattr(getattr(base, "generation_config", None), "eos_token_id", None)
    found = {token for token in _listed(named) if isinstance(token, int)}
    own = tokenizer.eos_token_id
    if own is None:
        return frozenset(found), frozenset(found)
    # Of a config's numbers, which may be defaults, those that the tokenizer means for such.
    return frozenset((own, *(found & set(tokenizer.all_special_ids)))), frozenset((own,))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _context(config: Any) -> int | None:
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(size := getattr(config, name, None), int):
            return size
    return None
