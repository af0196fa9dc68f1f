"""What can be known to fail before a trial starts, each with its arithmetic and its remedy.

A sweep is refused here rather than after an hour: a layer that the model does not have, a rank that
a layer cannot hold, a text longer than the model's context, workers that no machine here has, a
storage folder that cannot be written or is too full, a tracking server that does not answer. The
base model's config and the header of its weights are read, never the weights.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.base_facts import (
    BaseFilesError,
    base_facts,
    check_files,
    context_length,
    linear_shapes,
    local_folder,
    model_type,
)
from orchestrator.cluster import (
    ClusterError,
    check_driver,
    largest_resources,
    no_ray_folder,
    required_fit,
)
from orchestrator.communication_op import forgotten_lock
from orchestrator.experiment import Experiment, LoadedExperiment, ModelSpec, reachable
from orchestrator.foreign_settings import hidden_gpus, ray_folder
from orchestrator.machine import usable_cores
from orchestrator.method_facts import (
    Targets,
    is_target,
    method_facts,
    method_problems,
    storage_bytes,
    targets_of,
)
from orchestrator.model_registry import check_reachable
from orchestrator.tasks import GenerationTask, LanguageModellingTask, suggestion
from orchestrator.tracking_address import TrackingError, tracking_uri
from orchestrator.tracking_database import network_file_system

MIB = 2**20
OUTPUT_LAYER = "output layer"
"""What stands for the class of the layer that gives the logits."""


class PreflightError(ValueError):
    """An experiment that cannot run here as it is; one message with every reason."""


@dataclass(frozen=True)
class Means:
    """What there is to run on; None stands for what is not known yet."""

    cpus: float | None
    gpus: float | None
    room: int | None
    """Free bytes where sweeps are kept."""


def cautions(experiment: Experiment, storage: Path) -> list[str]:
    """What is worth knowing before a sweep begins, although nothing is in its way.

    Args:
        experiment: An experiment that `check` let pass.
        storage: The folder that sweeps are kept in.

    Returns:
        A line for each size that the retentions carry between tasks, with the arithmetic (none
        where the base's sizes are not known on this machine), and one where MLflow's database would
        lie on a network file system.
    """
    base = base_facts(experiment.model)
    facts = method_facts(experiment, base) if base else []
    carried = dict.fromkeys(m.arithmetic for m in facts if m.retention != "none")
    kind = network_file_system(tracking_uri(experiment.tracking.uri, storage))
    return [f"carried between tasks: {line}" for line in carried] + (
        [
            f"MLflow's database would lie on a network file system ({kind}), on which SQLite can "
            "be damaged when two machines open it. The journals are safe there, and make it anew. "
            "To be without that risk, name a local file (`tracking: {uri: "
            "sqlite:////home/YOU/mlflow.db}`) or a server"
        ]
        if kind is not None
        else []
    )


def check(loaded: LoadedExperiment, storage: Path, *, trials: int, address: str | None) -> None:
    """Refuse an experiment that cannot run.

    Args:
        loaded: The experiment and its tasks.
        storage: The folder that sweeps are kept in.
        trials: How many trials are still to be run.
        address: The cluster that will be joined; None: this machine.

    Raises:
        PreflightError: If anything is in the way.
    """
    cpus, gpus = (None, None) if address is not None else own_devices(loaded.experiment)
    means = Means(cpus, gpus, free_disk(storage))
    found = problems(loaded, storage, means, trials=trials, ask_hub=True)
    if address is not None:
        try:
            check_driver(address)
        except ClusterError as error:
            found.append(str(error))
    if len(found) == 1:
        raise PreflightError(found[0])
    if found:
        listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(found, start=1))
        raise PreflightError(f"{len(found)} things are in the way:\n{listed}")


def problems(
    loaded: LoadedExperiment, storage: Path, means: Means, *, trials: int, ask_hub: bool
) -> list[str]:
    """Everything that is known to be in the way.

    Args:
        loaded: The experiment and its tasks.
        storage: The folder that sweeps are kept in; it need not exist yet.
        means: What there is to run on.
        trials: How many trials are to be run.
        ask_hub: Whether the config of a hub model that is not on this machine is downloaded.

    Returns:
        One message each, empty when nothing is.
    """
    experiment = loaded.experiment
    found = [*_model_problems(loaded, ask_hub=ask_hub)]
    found += _resource_problems(experiment, means)
    found += _method_problems(experiment)
    found += _deepspeed_problems(experiment)
    found += _storage_problems(experiment, storage, means.room, trials)
    if experiment.tracking.uri is not None:
        try:
            check_reachable(experiment.tracking.uri)
        except TrackingError as error:
            found.append(str(error))
    return found


# --- the model -----------------------------------------------------------------------------------


def _model_problems(loaded: LoadedExperiment, *, ask_hub: bool) -> Iterator[str]:
    experiment = loaded.experiment
    try:
        check_files(experiment.model)
        yield from _context_problems(loaded)
        yield from _adapter_problems(experiment, ask_hub=ask_hub)
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


def _adapter_problems(experiment: Experiment, *, ask_hub: bool) -> Iterator[str]:
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


# --- the machine and the storage -----------------------------------------------------------------


def own_devices(experiment: Experiment) -> tuple[float, float]:
    """The CPUs and GPUs of this machine; GPUs are looked for only when they are wanted."""
    if largest_resources(experiment).gpus_per_worker == 0:
        return usable_cores(), 0.0
    import torch

    return usable_cores(), float(torch.cuda.device_count())


def _resource_problems(experiment: Experiment, means: Means) -> Iterator[str]:
    if means.cpus is None or means.gpus is None:
        return
    wanted = largest_resources(experiment)
    if wanted.executor != "local":
        try:
            ray_folder()
        except OSError as error:
            yield no_ray_folder(error)
    lock = forgotten_lock() if wanted.executor != "local" else None
    if lock is not None:
        yield (
            f"A build of DeepSpeed's communication op never ended, and workers would wait for its "
            f"lock for ever: remove {lock}, and run `orchestrate doctor --build`."
        )
    if wanted.executor == "local" and wanted.gpus_per_worker > means.gpus:
        yield (
            f"`resources.gpus_per_worker` is {wanted.gpus_per_worker}, and this machine has "
            f"{means.gpus:g} GPUs. Set it to 0, or run where there is one.{_hidden()}"
        )
    try:
        required_fit(wanted, cpus=means.cpus, gpus=means.gpus)
    except ClusterError as error:
        yield f"{error}{_hidden() if wanted.gpus_per_worker else ''}"


def _hidden() -> str:
    """Whether the environment keeps GPUs from this process, as a sentence."""
    hidden = hidden_gpus()
    return f" ({hidden}, which may hide GPUs.)" if hidden else ""


def existing_folder(storage: Path) -> Path:
    """The storage folder, or the nearest one above it that exists."""
    path = storage.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_disk(storage: Path) -> int | None:
    """Free bytes where the storage folder is, or would be made; None when that is unknown."""
    try:
        return shutil.disk_usage(existing_folder(storage)).free
    except OSError:
        return None


def _method_problems(experiment: Experiment) -> Iterator[str]:
    try:
        base = base_facts(experiment.model)
    except BaseFilesError:
        base = None  # told of above
    yield from method_problems(experiment, base)


def _deepspeed_problems(experiment: Experiment) -> Iterator[str]:
    """What DeepSpeed would say of a file's section when the first trial has its workers."""
    search = experiment.search
    named = [path for entry in (search.space, *search.first) for path in entry] if search else []
    paths = [path for path in dict.fromkeys(named) if path.startswith("training.deepspeed.")]
    trials = [experiment, *(reachable(experiment, paths) if paths else ())]
    specs = {
        json.dumps(trial.training.deepspeed, sort_keys=True, default=str): trial.training
        for trial in trials
        if trial.training.deepspeed
    }
    if not specs:
        return
    from orchestrator.engine import deepspeed_refuses  # seconds, which few files need

    refused = [deepspeed_refuses(spec) for spec in specs.values()]
    yield from dict.fromkeys(text for text in refused if text is not None)


def probe_storage(folder: Path) -> None:
    """Write, sync and remove a small file, as the journal would; an OSError says what fails."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".orchestrate-") as probe:
        probe.write(b"written")
        probe.flush()
        os.fsync(probe.fileno())


def _storage_problems(
    experiment: Experiment, storage: Path, room: int | None, trials: int
) -> Iterator[str]:
    existing = existing_folder(storage)
    try:
        probe_storage(existing)
    except OSError as error:
        yield (
            f"`storage` {storage} cannot be written: {existing}: {error.strerror or error}. Set "
            "`storage` to a folder that you can write to."
        )
        return
    try:
        base = base_facts(experiment.model)
    except BaseFilesError:
        return
    adapters = [m.adapter for m in method_facts(experiment, base)] if base else []
    need = storage_bytes(adapters, trials)
    if room is not None and need > room:
        yield (
            f"`storage` {storage} has {room / MIB:,.0f} MiB free, and about {need / MIB:,.0f} MiB "
            f"are needed for {trials} trials ({need / MIB / max(1, trials):,.1f} MiB each). Free "
            "some, or set `storage` to a folder on a larger disk."
        )
