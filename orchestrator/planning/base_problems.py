"""What of an experiment its base model cannot hold: texts too long, layers or ranks not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.base.config import context_length, model_type
from orchestrator.base.errors import BaseFilesError
from orchestrator.base.facts import linear_shapes
from orchestrator.base.files import check_files, local_folder
from orchestrator.planning.method_sizes import Targets, is_target, targets_of
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.reach import reachable
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.task_kinds import GenerationTask, LanguageModellingTask
from orchestrator.system.wording import suggestion

OUTPUT_LAYER = "output layer"
"""What stands for the class of the layer that gives the logits."""


def base_problems(loaded: LoadedExperiment, *, ask_hub: bool) -> Iterator[str]:
    """What of an experiment its base model cannot hold, a message each."""
    experiment = loaded.experiment
    try:
        check_files(experiment.model)
        yield from _context_problems(loaded)
        yield from adapter_problems(experiment, ask_hub=ask_hub)
    except BaseFilesError as error:
        yield str(error)


def _context_problems(loaded: LoadedExperiment) -> Iterator[str]:
    experiment = loaded.experiment
    limit = context_length(experiment.model)
    if limit is None:
        return
    lengths = {"training.max_length": experiment.training.max_length}
    if any(isinstance(task, LanguageModellingTask) for task in loaded.tasks.values()):
        lengths["data.probe_context"] = experiment.data.probe_context
    written = [t.max_new_tokens for t in loaded.tasks.values() if isinstance(t, GenerationTask)]
    whole = lengths["training.max_length"] + max(written, default=0)
    if lengths["training.max_length"] <= limit < whole:
        yield (
            f"A prompt of `training.max_length` {lengths['training.max_length']} tokens and "
            f"`max_new_tokens` {max(written)} written after it are {whole}, and the model reads "
            f"at most {limit}. Set `training.max_length` to at most {limit - max(written)}, or "
            "lower `max_new_tokens` in the task file."
        )
    for field, length in lengths.items():
        if length > limit:
            yield (
                f"`{field}` is {length} tokens, and the model reads at most {limit}: "
                f"{length} - {limit} = {length - limit} too many. Set it to at most {limit}; "
                "longer texts are shortened, and counted."
            )


def adapter_problems(experiment: Experiment, *, ask_hub: bool) -> Iterator[str]:
    """Which layers and ranks of a file's adapters its base does not have, a message each."""
    ranks = _largest_ranks(experiment)
    if not ranks:
        return
    shapes = linear_shapes(experiment.model)
    others: dict[str, str] = {}
    if not all(any(is_target(name, part) for name in shapes) for part in _parts(ranks)):
        # Some models rename their weights when they are loaded, so the header is not the last word.
        built = _architecture(experiment.model, ask_hub=ask_hub)
        shapes, others = built or (shapes, others)
    if not shapes:
        return
    for part in _parts(ranks):
        if not any(is_target(name, part) for name in shapes):
            yield _unmatched(part, shapes, others)
    for targets, r in ranks.items():
        held = {name: shape for name, shape in shapes.items() if is_target(name, targets)}
        if not held:
            continue
        name = min(held, key=lambda layer: min(held[layer]))
        d_out, d_in = held[name]
        if r > min(d_out, d_in):
            yield (
                f"`method.adapter.r` may become {r}, and the smallest layer that it names, "
                f"{name}, has a weight of {d_out} x {d_in}: the rank is at most min({d_out}, "
                f"{d_in}) = {min(d_out, d_in)}. Lower `r` in `method.adapter` and in "
                "`search.space`, or drop that layer from `target_modules`."
            )


def _largest_ranks(experiment: Experiment) -> dict[Targets, int]:
    """For each `target_modules` that a trial may have, the largest rank that it may come with."""
    paths = (
        "method.preset",
        "method.adapter.kind",
        "method.adapter.r",
        "method.adapter.target_modules",
    )
    ranks: dict[Targets, int] = {}
    family = model_type(experiment.model)
    for one in reachable(experiment, paths):
        adapter: Any = one.method.adapter
        # Not every method has an adapter of some rank on some layers.
        targets, r = targets_of(adapter, family), getattr(adapter, "r", None)
        if targets is not None and r is not None:
            ranks[targets] = max(r, ranks.get(targets, 0))
    return ranks


def _parts(ranks: dict[Targets, int]) -> list[Targets]:
    """Each name in `target_modules` for itself; a string stands for every linear layer."""
    found: list[Targets] = []
    for targets in ranks:
        found += [targets] if isinstance(targets, str) else [(target,) for target in targets]
    return list(dict.fromkeys(found))


def _unmatched(part: Targets, shapes: dict[str, tuple[int, int]], others: dict[str, str]) -> str:
    target = part if isinstance(part, str) else part[0]
    names = sorted({name.rsplit(".", 1)[-1] for name in shapes})
    listed = f"Its linear layers: {', '.join(names)}."
    other = next((kind for name, kind in others.items() if is_target(name, part)), None)
    if other == OUTPUT_LAYER:
        return (
            f"`method.adapter.target_modules`: {target!r} is the model's output layer, which is "
            "not adapted here: its weight is often that of the input embedding as well, and "
            f"probabilities are read from it at scored places alone. {listed}"
        )
    if other is not None:
        return (
            f"`method.adapter.target_modules`: {target!r} is a {other}, and only linear layers "
            f"can be adapted. {listed}"
        )
    return (
        f"`method.adapter.target_modules`: {target!r} matches no layer of the base model."
        f"{suggestion(target, names)} {listed}"
    )


def _architecture(
    model: ModelSpec, *, ask_hub: bool
) -> tuple[dict[str, tuple[int, int]], dict[str, str]] | None:
    """Linear layers and other modules of a model that is built without weights.

    Args:
        model: The model.
        ask_hub: Whether a config may be downloaded.

    Returns:
        The (d_out, d_in) of linear layers and the class names of all other modules, each by name;
        None when the model cannot be built from what is here.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    if model.gguf is not None:
        return None
    folder = local_folder(model)
    if folder is None and not ask_hub:
        return None
    place = str(folder or model.name)
    try:
        config: Any = AutoConfig.from_pretrained(place, revision=model.revision)
        with torch.device("meta"):
            built: Any = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, ImportError):
        return None  # loading the tokenizer or the weights says why
    last = built.get_output_embeddings()
    linear: dict[str, tuple[int, int]] = {}
    others: dict[str, str] = {}
    for name, module in built.named_modules():
        if module is last:
            others[name] = OUTPUT_LAYER
        elif isinstance(module, torch.nn.Linear | Conv1D):
            d_out, d_in = module.weight.shape
            linear[name] = (int(d_out), int(d_in))
        elif name:
            others[name] = type(module).__name__
    return linear, others
